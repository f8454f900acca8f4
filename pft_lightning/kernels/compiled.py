"""Compile the package's C sources for the processor at hand, once."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from pft_lightning.files import compute_sha256
from pft_lightning.locks import locked


# The sources are written in vectors; what -O3 adds is time to compile.
_FLAGS = ("-O2", "-fno-math-errno", "-shared", "-fPIC")
# Older compilers for Arm do not know it.
_NATIVE = "-march=native"

_SLOWER = "Models run without it on the CPU, with the same numbers but slower."


@functools.cache
def load_library(name: str) -> ctypes.CDLL | None:
    """Compile ``name.c`` with its ``name.h`` and load it; None where that fails.

    The result is kept in the user's cache, under the hash of sources, compiler and
    processor, or where that cannot be written, in a folder of the user's among the
    machine's temporary ones. Processes that start together compile it once.
    ``PFT_LIGHTNING_COMPILE=0`` turns compiling off.

    Args:
        name: of the sources beside this file.
    """
    if os.environ.get("PFT_LIGHTNING_COMPILE") == "0":
        return None
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None or platform.system() == "Windows":
        warnings.warn(f"No C compiler (cc, gcc or $CC) found. {_SLOWER}", stacklevel=2)
        return None
    source = Path(__file__).with_name(f"{name}.c")
    try:
        for folder, instead in _folders():
            try:
                return _from_cache(source, compiler, folder)
            # RuntimeError: links that lead to each other.
            except (OSError, RuntimeError) as error:
                warnings.warn(
                    f"The cache of compiled code cannot be used ({error}); it is "
                    f"compiled {instead}.",
                    stacklevel=2,
                )
        with tempfile.TemporaryDirectory(prefix="pft_lightning-") as private:
            made = Path(private) / f"{name}.so"
            _compile(compiler, source, made)
            return ctypes.CDLL(str(made))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        warnings.warn(
            f"{source.name} could not be compiled with {compiler}: "
            f"{reason.strip()[:500]}. {_SLOWER}",
            stacklevel=2,
        )
        return None


def _folders() -> Iterator[tuple[Path, str]]:
    """Where libraries may be kept, and what is done where one cannot be used."""
    temporary = Path(tempfile.gettempdir()) / f"pft_lightning-{os.getuid()}"
    cache = Path(platformdirs.user_cache_dir("pft_lightning"))
    yield cache / "compiled", f"in {temporary}"
    # Others may have made it first, or a link in its place.
    if not os.path.lexists(temporary) or _is_ours(temporary):
        yield temporary, "for this process alone"


def _from_cache(source: Path, compiler: str, folder: Path) -> ctypes.CDLL:
    """Load the library of a cache; build it where there is none to rely on.

    Its name ends in the hash of its content, and nobody but the user and root may have
    written it: whatever else lies there, a half file too, is not loaded.
    """
    parts = [source.read_bytes(), source.with_suffix(".h").read_bytes()]
    parts += [compiler.encode(), _processor().encode(), " ".join(_FLAGS).encode()]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = folder.resolve()
    stem = f"{source.stem.strip('_')}-{digest}"
    if folder.stat().st_uid not in (os.getuid(), 0):
        raise PermissionError(f"{folder} belongs to another user")
    if not _is_ours(folder):  # open to others until now: what it holds is not used
        folder.chmod(0o700)
        for library in folder.glob("*.so"):
            library.unlink()
    elif (known := _find_library(folder, stem)) is not None:
        return ctypes.CDLL(str(known))
    busy = f"{folder}: another process compiles {source.name} now."
    with locked(folder / f".{stem}.lock", busy=busy, wait=True):
        # The other process may have done it.
        known = _find_library(folder, stem) or _build(source, compiler, folder, stem)
    return ctypes.CDLL(str(known))


def _find_library(folder: Path, stem: str) -> Path | None:
    """Find a library whose content is what was built; remove others of its name."""
    for library in folder.glob(f"{stem}-*.so"):
        recorded = library.stem.rpartition("-")[2]
        if _is_ours(library) and compute_sha256(library)[:32] == recorded:
            return library
        library.unlink()
    return None


def _build(source: Path, compiler: str, folder: Path, stem: str) -> Path:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary) / "made.so"
        _compile(compiler, source, made)
        made.chmod(0o700)
        library = folder / f"{stem}-{compute_sha256(made)[:32]}.so"
        # In one step: where there are no locks, several processes do so at a time.
        made.replace(library)
    return library


def _is_ours(path: Path) -> bool:
    """Whether a file or folder is of this user or root, who alone may write it."""
    status = path.lstat()
    kinds = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return kinds and not others and status.st_uid in (os.getuid(), 0)


def _compile(compiler: str, source: Path, library: Path) -> None:
    command = [*shlex.split(compiler), *_FLAGS, "-o", str(library), str(source)]
    run = functools.partial(
        subprocess.run, check=True, capture_output=True, text=True, errors="replace"
    )
    try:
        run([*command, _NATIVE])
    except subprocess.CalledProcessError:
        run(command)


def _processor() -> str:
    """What ``-march=native`` depends on: home folders are shared among machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux; such computers rarely share a home folder
        return platform.processor() + platform.machine() + platform.node()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))
