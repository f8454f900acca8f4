"""Processes that read end with the one that they read for, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from pft_lightning.data.loading import loader_options
from pft_lightning.data.store.processes import mapper


KILLED = """
import multiprocessing, os, signal
from pft_lightning.data.store.processes import mapper
if __name__ == "__main__":
    with mapper(1) as mapped:
        assert list(mapped(abs, [-1])) == [1]
        for process in multiprocessing.active_children():
            print(process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, and nobody has asked yet


def _wait_for_end(pids: list[int], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(_is_alive, pids)):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_reader_outlives_a_build_that_was_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    run = subprocess.run([sys.executable, script], capture_output=True, text=True)
    pids = [int(pid) for pid in run.stdout.split()]
    assert pids, run.stderr
    assert _wait_for_end(pids)


def test_a_stop_waits_for_no_structure_that_is_still_read():
    start = time.monotonic()

    def interrupted() -> None:
        with mapper(1) as mapped:
            mapped(time.sleep, [60] * 5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 30
    with mapper(0) as mapped:
        assert list(mapped(os.path.basename, ["a/b"])) == ["b"]


class _Listening:
    """Tells whether the process that reads it would heed Ctrl-C."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bool:
        return signal.getsignal(signal.SIGINT) != signal.SIG_IGN


def test_a_loader_survives_an_interrupt_that_a_terminal_sends_to_all():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for n_workers, listens in ((0, True), (1, False)):
            loader = DataLoader(_Listening(), **loader_options(n_workers, None))
            assert [bool(found) for found in loader] == [listens]
    finally:
        signal.signal(signal.SIGINT, before)
