"""Processes of a visit, each with its log, environment and threads.

On the CPU they start in milliseconds, as copies of one that has imported everything and
does nothing else. CUDA's driver does not work in copies of a process that has asked it
anything, and importing torch-geometric asks it where there is one: there each process
starts afresh.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess as Process
from pathlib import Path
from typing import Any

import torch


# "fork" or "spawn"; inherited by processes that start others.
METHOD = "PFT_START_METHOD"


def start(
    function: Callable[..., None],
    *arguments: Any,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    threads: int | None = None,
    own_group: bool = False,
) -> Process:
    """Run a function in another process.

    Args:
        function: that is run; nothing comes back but the exit status.
        arguments: of it.
        log: file for what it prints; that of this process by default.
        environment: added to that of this process.
        threads: of torch.
        own_group: so that ``stop`` ends its children too.
    """
    context: Any = multiprocessing.get_context(os.environ.get(METHOD, "fork"))
    process: Process = context.Process(
        target=_run,
        args=(function, arguments, log, dict(environment or {}), threads, own_group),
    )
    process.start()
    return process


def _run(
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    log: Path | None,
    environment: Mapping[str, str],
    threads: int | None,
    own_group: bool,
) -> None:
    if own_group:
        os.setsid()
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file, stream.fileno())
    os.environ.update(environment)
    if threads is not None:
        torch.set_num_threads(threads)
    # What a shell leaves to its commands.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    function(*arguments)


def stop(process: Process) -> None:
    """End a process that has a group of its own, and all that it started."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended, with all of them
        process.kill()
    process.join()


def wait(*processes: Process) -> None:
    """Wait for the end of some processes.

    Raises:
        RuntimeError: one of them did not end well; what it printed says why.
    """
    for process in processes:
        process.join()
    failed = [process.exitcode for process in processes if process.exitcode]
    if failed:
        raise RuntimeError(f"a process ended with status {failed[0]}")
