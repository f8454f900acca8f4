"""What Python and ``messages.c`` must agree on; compared when the library is loaded."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from pft_lightning.errors import KernelError
from pft_lightning.kernels.compiled import load_library


# The arguments of the form: ``enum slot``.
COUPLING, FEATURE, WEIGHT, MESSAGE = range(4)
# Components of the highest degree of features and messages.
MAX_M = 15

_PLACES = ("coupling", "feature", "weight", "message")
# ``struct path``.
PATH = np.dtype(
    [(name, np.int32) for name in ("m1", "m3", "channels", *_PLACES, "stride")]
)

_INTEGERS = ("slot", "n_paths", "n_tensors", "n_terms")
_POINTERS = (
    *("paths", "roles", "terms", "tensors", "out", "own", "still"),
    *("start", "order", "centre", "neighbour", "pair"),
)


class CSum(ctypes.Structure):
    """``struct sum``."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in _INTEGERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("widths", ctypes.c_int64 * 4),
    )


class _Constant(ctypes.Structure):
    """``struct constant``."""

    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_int64))


def load_messages() -> ctypes.CDLL | None:
    """Load the compiled messages; None where they cannot be compiled.

    Raises:
        KernelError: C and Python differ in a size, a place or a limit.
    """
    library = load_library("messages")
    if library is not None:
        _check(library)
    return library


def python_constants() -> dict[str, int]:
    """Sizes of structures and places of their fields, bytes; slots and limits."""
    slots = ("COUPLING", "FEATURE", "WEIGHT", "MESSAGE")
    return {
        "struct path": PATH.itemsize,
        "struct sum": ctypes.sizeof(CSum),
        **{
            f"struct path.{name}": place[1]
            for name, place in (PATH.fields or {}).items()
        },
        **{f"struct sum.{x[0]}": getattr(CSum, x[0]).offset for x in CSum._fields_},
        **{name: number for number, name in enumerate(slots)},
        "MAX_M": MAX_M,
    }


def c_constants(library: ctypes.CDLL) -> dict[str, int]:
    """The same of a library, which lists them in ``constants``.

    Raises:
        KernelError: it has no such list.
    """
    try:
        first = ctypes.pointer(_Constant.in_dll(library, "constants"))
    except ValueError as error:
        raise KernelError(
            f"{library._name}: messages.c exports no list named constants ({error}). "
            "Take the messages.c of this version of pft_lightning."
        ) from error
    found: dict[str, int] = {}
    while name := first[len(found)].name:
        found[name.decode()] = first[len(found)].value
    return found


@cache  # of errors nothing is kept
def _check(library: ctypes.CDLL) -> None:
    in_c, in_python = c_constants(library), python_constants()
    names = [*in_python, *(name for name in in_c if name not in in_python)]
    differences = [
        f"{name} is {in_c.get(name, 'missing')} in C and "
        f"{in_python.get(name, 'missing')} in Python"
        for name in names
        if in_c.get(name) != in_python.get(name)
    ]
    if differences:
        raise KernelError(
            "messages.c and interface.py of pft_lightning/kernels do not fit each "
            f"other: {'; '.join(differences)} (of a struct: its size in bytes; of a "
            "field: where it begins). Give both sides the same fields in the same "
            "order, and the list named constants in messages.c a line for each; or "
            "install pft_lightning again. PFT_LIGHTNING_COMPILE=0 runs without the "
            "compiled form."
        )
