from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from pft_lightning.runs.memory import SETTINGS, keep_freed_memory


FAULTS = """
import resource, sys, torch
from pft_lightning.runs.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    torch.ones(2**24)
before = faults()
for _ in range(20):
    torch.ones(2**24)
print(faults() - before)
"""


def page_faults(mode: str) -> int:
    environment = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode],
        check=True,
        capture_output=True,
        text=True,
        env=environment | {"CUDA_VISIBLE_DEVICES": ""},
    )
    return int(done.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library is not glibc"
)
def test_large_arrays_reuse_memory_that_was_freed():
    # Pages are of 4 KiB or, where the kernel chooses so, of 2 MiB: 20 arrays of 64 MiB
    # take 640 faults at least where each is mapped anew.
    assert page_faults("default") >= 640
    # The heap has found its size after some arrays of the thirty before.
    assert page_faults("keep") < 64


def test_settings_of_the_environment_are_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed_memory()
