"""Python and C agree on what they hand to each other, or say where they do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

from pft_lightning.errors import KernelError
from pft_lightning.kernels import compiled, interface, messages


CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(
    not messages.can_fuse(torch.float64, CPU, 3), reason="no C compiler here"
)


@pytest.fixture
def change_c(tmp_path, monkeypatch):
    """Replace a text in a copy of ``messages.c``; the loops are left out of it."""
    original = compiled.Path(compiled.__file__).with_name("messages.c")

    def change(old: str, new: str) -> None:
        text = original.read_text()
        assert text.count(old) == 1
        (tmp_path / "messages.c").write_text(text.replace(old, new))
        (tmp_path / "messages.h").touch()
        monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        compiled.load_library.cache_clear()

    yield change
    compiled.load_library.cache_clear()


@needs_compiler
def test_python_and_c_have_the_same_sizes_places_slots_and_limits():
    library = interface.load_messages()
    assert interface.c_constants(library) == interface.python_constants()
    # Eight integers; four integers, twelve addresses and four widths.
    assert interface.c_constants(library)["struct path"] == 32
    assert interface.c_constants(library)["struct sum"] == 16 + 12 * 8 + 4 * 8


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new", "pattern"),
    [
        (
            "int32_t m1, m3, channels",
            "int32_t m1, m3, spin, channels",
            r"struct path is 36 in C and 32 in Python; struct path\.channels is 12 in C"
            " and 8 in Python",
        ),
        (
            "int64_t widths[4];",
            "int64_t widths[4], lengths[4];",
            r"struct sum is 176 in C and 144 in Python \(",
        ),
        (
            "const void *own;\n    const uint8_t *still;",
            "const uint8_t *still;\n    const void *own;",
            r"other: struct sum\.own is 64 in C and 56 in Python; struct sum\.still",
        ),
        ("MAX_M = 15", "MAX_M = 13", "MAX_M is 13 in C and 15 in Python"),
        (
            "VALUE(MAX_M),",
            'VALUE(MAX_M), {"CHARGE", 4},',
            "CHARGE is 4 in C and missing in Python",
        ),
        ("constants[]", "others[]", "exports no list named constants"),
    ],
)
def test_a_change_on_the_side_of_c_alone_is_an_error_that_names_it(
    change_c, old, new, pattern
):
    change_c(old, new)
    with pytest.raises(KernelError, match=pattern):
        messages.can_fuse(torch.float64, CPU, 3)


@needs_compiler
def test_degrees_beyond_the_limit_are_left_to_torch():
    assert interface.MAX_M == 15
    assert messages.can_fuse(torch.float64, CPU, 7)
    assert not messages.can_fuse(torch.float64, CPU, 8)


@pytest.mark.skipif(
    "libasan" not in os.environ.get("LD_PRELOAD", "") or shutil.which("cc") is None,
    reason="not under the address sanitizer: nox -s asan",
)
def test_the_sanitizer_sees_what_is_read_beyond_an_array():
    code = """
import dataclasses, torch
from pft_lightning.kernels.couplings import Coupling
from pft_lightning.kernels.edges import group_edges
from pft_lightning.kernels.layout import ProductPath, make_layout
from pft_lightning.kernels.messages import messages

paths = [ProductPath(0, 0, 0, 0, 0, 64)]
layout = make_layout(paths, [(1, 64)], [Coupling(0, 0, 0)])
atoms = torch.tensor([0, 1])
edges = group_edges(atoms, atoms.flip(0), 2)
edges = dataclasses.replace(edges, neighbour=edges.neighbour + 1)
messages(layout, edges, torch.ones(2, 1), torch.ones(2, 64), torch.ones(2, 64))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr
