from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import own_cache


pytest.importorskip("mace", reason="the block opens the example's base model, of MACE")

README = Path(__file__).parents[3] / "README.md"


def test_the_python_of_the_readme_runs_as_it_stands(tmp_path):
    (block,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)
    shown = "print(phonon.force_constants.shape)"
    result = subprocess.run(
        [sys.executable, "-c", block + shown],
        cwd=tmp_path,
        env={**os.environ, **own_cache(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "better.model").is_file()
    assert result.stdout.splitlines()[-1] == "(2, 16, 3, 3)"
