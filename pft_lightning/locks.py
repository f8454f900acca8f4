"""Locks on folders, so that two processes never write into one."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from pft_lightning.errors import StorageError
from pft_lightning.files import writing


# File systems without locks, some of NFS and Lustre, say one of these.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, *, busy: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock file; the system frees it when the process ends, however it ends.

    Args:
        path: of the lock file, in a folder that exists; it stays there.
        busy: message where another process holds the lock.
        wait: wait for the other process, and say so, in place of the error.

    Raises:
        StorageError: another process holds it, or the folder cannot be written.
    """
    lock = filelock.FileLock(path)
    held = False
    try:
        with writing(path):
            held = _acquire(lock, path, busy, wait)
        yield
    finally:
        if held:
            lock.release()


def _acquire(lock: filelock.BaseFileLock, path: Path, busy: str, wait: bool) -> bool:
    """Take a lock; False where the file system has none."""
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if not wait:
                raise StorageError(busy) from None
            print(f"{busy} Waiting for it.", file=sys.stderr)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        print(
            f"warning: {path.parent}: its file system knows no locks, so nothing keeps "
            "a second process from writing there.",
            file=sys.stderr,
        )
        return False
    return True
