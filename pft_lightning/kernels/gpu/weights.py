"""The gradient to radial weights: sums over components."""

import triton
import triton.language as tl

from pft_lightning.kernels.gpu.common import (
    SIZES,
    WEIGHT_TILE,
    has_values,
    moves,
)


@triton.jit
def _add_weights(
    total, k, s, g, k_at, s_at, g_at, k_shift, s_shift, g_shift,
    m_in, k_in, s_step, in_b, in_c, there,
    TERMS: tl.constexpr,
    PROBES_K: tl.constexpr, PROBES_S: tl.constexpr, PROBES_G: tl.constexpr,
):  # fmt: skip
    """Add an edge to (channels,): sum over a, b of k[a, b] s[a, c] g[b, c]."""
    for i in tl.static_range(0, len(TERMS), 3):
        if TERMS[i] >= 0:
            of_k = k[TERMS[i]] + PROBES_K[TERMS[i]] * k_shift + k_at
            of_s = s[TERMS[i + 1]] + PROBES_S[TERMS[i + 1]] * s_shift + s_at
            of_g = g[TERMS[i + 2]] + PROBES_G[TERMS[i + 2]] * g_shift + g_at
            cotangent = tl.load(of_g, mask=there, other=0.0)
            for a in range(m_in):
                factor = tl.load(of_k + a * k_in, mask=in_b, other=0.0)
                sent = tl.load(of_s + a * s_step, mask=in_c, other=0.0)
                total += tl.sum(factor[:, None] * cotangent, axis=0) * sent
    return total


@triton.jit
def _weight_tile(
    out, k, s, g, own, still, tile, start, order, s_row, g_row, row, probe,
    k_rows, s_rows, g_rows, out_rows, k_width, s_width, g_width, out_width,
    EVERYWHERE: tl.constexpr, MOVING: tl.constexpr, SPARSE_K: tl.constexpr,
    PROBES_K: tl.constexpr, PROBES_S: tl.constexpr, PROBES_G: tl.constexpr,
    HAS_OWN: tl.constexpr, OWN_PROBES: tl.constexpr,
    M: tl.constexpr, WIDEST: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One tile of the gradient to weights, of a path with at most M components."""
    channels, m_in, m_out = tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    k_first, s_first = tl.load(tile + 4), tl.load(tile + 5)
    s_step, g_first, g_step = tl.load(tile + 6), tl.load(tile + 7), tl.load(tile + 8)
    b, c = tl.arange(0, M), tl.arange(0, CHANNELS)
    in_b, in_c = b < m_out, c < channels
    there = in_b[:, None] & in_c[None, :]
    k_shift, s_shift = probe * k_rows * k_width, probe * s_rows * s_width
    g_shift, out_shift = probe * g_rows * g_width, probe * out_rows * out_width
    at = row * out_width + tl.load(tile)
    first, last = tl.load(start + row), tl.load(start + row + 1)
    if HAS_OWN:
        # Nobody needs it where it can have no value, and has none.
        if tl.load(still + row) != 0:
            mine = own + OWN_PROBES * out_shift + at
            if not has_values(mine, channels, CHANNELS):
                last = first
    total = tl.zeros((CHANNELS,), dtype=out.dtype.element_ty)
    for i in range(first, last):
        edge = tl.load(order + i)
        k_block = edge * k_width + k_first
        s_at = tl.load(s_row + edge) * s_width + s_first + c
        g_at = tl.load(g_row + edge) * g_width + g_first
        g_at = g_at + b[:, None] * g_step + c[None, :]
        total = _add_weights(
            total, k, s, g, k_block + b, s_at, g_at, k_shift, s_shift, g_shift,
            m_in, m_out, s_step, in_b, in_c, there,
            EVERYWHERE, PROBES_K, PROBES_S, PROBES_G,
        )  # fmt: skip
        if len(MOVING) > 0:
            if moves(
                k, k, k_block, k_block, k_shift, k_shift, m_in * m_out, channels,
                SPARSE_K, (), PROBES_K, PROBES_K, WIDEST, CHANNELS,
            ):  # fmt: skip
                total = _add_weights(
                    total, k, s, g, k_block + b, s_at, g_at, k_shift, s_shift, g_shift,
                    m_in, m_out, s_step, in_b, in_c, there,
                    MOVING, PROBES_K, PROBES_S, PROBES_G,
                )  # fmt: skip
    tl.store(out + out_shift + at + c, total, mask=in_c)


@triton.jit(do_not_specialize=SIZES)
def weights(
    out, k, s, g, tiles, own, still, start, order, s_row, g_row, n_tiles,
    k_rows, s_rows, g_rows, out_rows, k_width, s_width, g_width, out_width,
    EVERYWHERE: tl.constexpr, MOVING: tl.constexpr, SPARSE_K: tl.constexpr,
    PROBES_K: tl.constexpr, PROBES_S: tl.constexpr, PROBES_G: tl.constexpr,
    HAS_OWN: tl.constexpr, OWN_PROBES: tl.constexpr,
    WIDTHS: tl.constexpr, WIDEST: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradient to weights: a program for each pair and tile, and each probe."""
    row = (tl.program_id(0) // n_tiles).to(tl.int64)
    probe = tl.program_id(1).to(tl.int64)
    tile = tiles + (tl.program_id(0) % n_tiles) * WEIGHT_TILE
    m = tl.load(tile + 3)
    for i in tl.static_range(1, len(WIDTHS)):
        if (m > WIDTHS[i - 1]) & (m <= WIDTHS[i]):
            _weight_tile(
                out, k, s, g, own, still, tile, start, order, s_row, g_row, row, probe,
                k_rows, s_rows, g_rows, out_rows, k_width, s_width, g_width, out_width,
                EVERYWHERE, MOVING, SPARSE_K, PROBES_K, PROBES_S, PROBES_G,
                HAS_OWN, OWN_PROBES, WIDTHS[i], WIDEST, CHANNELS,
            )  # fmt: skip
