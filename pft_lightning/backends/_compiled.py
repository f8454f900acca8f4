"""Compile the package's C sources for the processor at hand, once."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import platformdirs


# The sources are written in vectors; what -O3 adds is time to compile.
_FLAGS = ("-O2", "-fno-math-errno", "-shared", "-fPIC")
# Older compilers for Arm do not know it.
_NATIVE = "-march=native"

_SLOWER = "Models run without it on the CPU, with the same numbers but slower."


@functools.cache
def load_library(name: str) -> ctypes.CDLL | None:
    """Compile ``name.c`` with its ``name.h`` and load it; None where that fails.

    The result is kept in the user's cache, under the hash of sources, compiler and
    processor. ``PFT_LIGHTNING_COMPILE=0`` turns compiling off.

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
    parts = [source.read_bytes(), source.with_suffix(".h").read_bytes()]
    parts += [compiler.encode(), _processor().encode(), " ".join(_FLAGS).encode()]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    folder = Path(platformdirs.user_cache_dir("pft_lightning")) / "compiled"
    library = folder / f"{name.strip('_')}-{digest}.so"
    try:
        if not library.exists():
            command = [*shlex.split(compiler), *_FLAGS]
            try:
                _compile([*command, _NATIVE], source, library)
            except subprocess.CalledProcessError:
                _compile(command, source, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        warnings.warn(
            f"{source.name} could not be compiled with {compiler}: "
            f"{reason.strip()[:500]}. {_SLOWER}",
            stacklevel=2,
        )
        return None


def _compile(command: list[str], source: Path, library: Path) -> None:
    """Write the library in one step: several processes may do so at a time."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        subprocess.run(
            [*command, "-o", str(made), str(source)],
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
        )
        made.replace(library)


def _processor() -> str:
    """What ``-march=native`` depends on: home folders are shared among machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux; such computers rarely share a home folder
        return platform.processor() + platform.machine() + platform.node()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))
