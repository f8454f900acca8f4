"""What the kernels of all slots share: tables, places of rows, rows of zeros.

A program of a kernel writes one tile: some channels of one block of one row, for one
probe. It goes through the edges of the row in their order, so that no two programs add
to one number and results have the same bits in every run.

Terms are constants, in a flat tuple with three places each and three times -1 at its
end, those with the same first tensor next to each other: ``EVERYWHERE`` those that any
edge may have, ``MOVING`` those with a tangent of couplings or weights, which is zero at
most edges along a column of the Hessian. ``SPARSE_K`` and ``SPARSE_W`` are the places
of such tangents, and ``PROBES_K`` etc. say of each tensor whether it has an axis of
probes, 1 or 0. ``WIDTHS`` are the numbers of components that a tile is compiled for.
"""

import triton
import triton.language as tl


# Columns of the tables, which ``tables.py`` makes.
TILE: tl.constexpr = tl.constexpr(6)
PATH: tl.constexpr = tl.constexpr(7)
WEIGHT_TILE: tl.constexpr = tl.constexpr(9)

# They differ from batch to batch, and no value is worth code of its own.
SIZES = ["n_tiles"]
SIZES += [f"{name}_rows" for name in ("k", "x", "s", "w", "g", "out")]
SIZES += [f"{name}_width" for name in ("k", "x", "s", "w", "g", "out")]


@triton.jit
def has_values(first, size, SIZE: tl.constexpr):
    """Whether not all numbers are zero; SIZE: a power of two, at least as many."""
    i = tl.arange(0, SIZE)
    values = tl.load(first + i, mask=i < size, other=0.0)
    return tl.sum((values != 0).to(tl.int32), axis=0) > 0


@triton.jit
def moves(
    k, w, k_at, w_at, k_shift, w_shift, k_size, channels,
    SPARSE_K: tl.constexpr, SPARSE_W: tl.constexpr,
    PROBES_K: tl.constexpr, PROBES_W: tl.constexpr,
    WIDEST: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Whether any tangent of couplings or weights is not zero for an edge."""
    found = tl.full((), 0, tl.int1)
    for i in tl.static_range(len(SPARSE_K)):
        row = k[SPARSE_K[i]] + PROBES_K[SPARSE_K[i]] * k_shift + k_at
        found = found | has_values(row, k_size, WIDEST * WIDEST)
    for i in tl.static_range(len(SPARSE_W)):
        row = w[SPARSE_W[i]] + PROBES_W[SPARSE_W[i]] * w_shift + w_at
        found = found | has_values(row, channels, CHANNELS)
    return found
