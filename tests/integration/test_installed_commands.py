from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import MODULES


@pytest.mark.parametrize("name", sorted(MODULES))
def test_an_installed_command_says_in_one_message_what_it_lacks(name, tmp_path):
    done = subprocess.run(
        [Path(sys.executable).with_name(name)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
