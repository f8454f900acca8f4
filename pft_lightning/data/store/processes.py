"""Processes that read structures, and end with the one that asked for it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

from pft_lightning.errors import ConfigError


@contextmanager
def mapper(n_workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Give ``map``, or that of a pool of processes.

    Raises:
        ConfigError: the system killed one of them.
    """
    if n_workers < 1:
        yield map
        return
    others = set(multiprocessing.active_children())
    # fork would copy the locks of torch's and BLAS's running threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        n_workers, mp_context=context, initializer=_follow_parent
    ) as pool:
        try:
            yield pool.map
        except BrokenProcessPool as error:
            raise ConfigError(
                f"n_workers={n_workers}: a process that reads was killed, most likely "
                "for want of memory. What was read is kept: run the same command with "
                "fewer of them."
            ) from error
        except BaseException:
            # What they would still read is not wanted, and nobody shall wait for it.
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent; end when it ends, also where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
