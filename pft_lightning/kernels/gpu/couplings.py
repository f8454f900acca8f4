"""The gradient to couplings: sums over channels."""

import triton
import triton.language as tl

from pft_lightning.kernels.gpu.common import PATH, SIZES, TILE, moves


@triton.jit
def _add_couplings(
    total, s, w, g, s_at, w_at, g_at, s_shift, w_shift, g_shift, in_c, there,
    TERMS: tl.constexpr,
    PROBES_S: tl.constexpr, PROBES_W: tl.constexpr, PROBES_G: tl.constexpr,
):  # fmt: skip
    """Add to (components, channels): g[b, c] s[c] w[c], of one component of s."""
    for i in tl.static_range(0, len(TERMS), 3):
        if TERMS[i] >= 0:
            of_s = s[TERMS[i + 1]] + PROBES_S[TERMS[i + 1]] * s_shift + s_at
            of_w = w[TERMS[i + 2]] + PROBES_W[TERMS[i + 2]] * w_shift + w_at
            product = tl.load(of_s, mask=in_c, other=0.0)
            product *= tl.load(of_w, mask=in_c, other=0.0)
            if TERMS[i] == TERMS[i - 3]:
                value += product  # type: ignore[has-type]  # noqa: F821
            else:
                value = product
            if TERMS[i] != TERMS[i + 3]:
                of_g = g[TERMS[i]] + PROBES_G[TERMS[i]] * g_shift + g_at
                total += tl.load(of_g, mask=there, other=0.0) * value[None, :]
    return total


@triton.jit
def _coupling_tile(
    out, s, w, g, tile, paths, s_row, pair, g_row, row, probe,
    s_rows, w_rows, g_rows, out_rows, s_width, w_width, g_width, out_width,
    EVERYWHERE: tl.constexpr, MOVING: tl.constexpr, SPARSE_W: tl.constexpr,
    PROBES_S: tl.constexpr, PROBES_W: tl.constexpr, PROBES_G: tl.constexpr,
    M: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The couplings of one kind of one edge, with at most M components of messages."""
    first, m_in, m_out = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    path, n_paths = tl.load(tile + 4), tl.load(tile + 5)
    b, c = tl.arange(0, M), tl.arange(0, CHANNELS)
    in_b = b < m_out
    s_shift, w_shift = probe * s_rows * s_width, probe * w_rows * w_width
    g_shift = probe * g_rows * g_width
    s_first = tl.load(s_row + row) * s_width
    w_first = tl.load(pair + row) * w_width
    g_first = tl.load(g_row + row) * g_width
    to = out + probe * out_rows * out_width + row * out_width + first + b
    for a in range(m_in):
        total = tl.zeros((M, CHANNELS), dtype=out.dtype.element_ty)
        for p in range(path, path + n_paths):
            t = paths + p * PATH
            channels = tl.load(t)
            in_c = c < channels
            there = in_b[:, None] & in_c[None, :]
            s_at = s_first + tl.load(t + 1) + a * tl.load(t + 2) + c
            w_at = w_first + tl.load(t + 6)
            g_at = g_first + tl.load(t + 3)
            g_at = g_at + b[:, None] * tl.load(t + 4) + c[None, :]
            total = _add_couplings(
                total, s, w, g, s_at, w_at + c, g_at, s_shift, w_shift, g_shift,
                in_c, there, EVERYWHERE, PROBES_S, PROBES_W, PROBES_G,
            )  # fmt: skip
            if len(MOVING) > 0:
                if moves(
                    w, w, w_at, w_at, w_shift, w_shift, 0, channels,
                    (), SPARSE_W, PROBES_W, PROBES_W, 1, CHANNELS,
                ):  # fmt: skip
                    total = _add_couplings(
                        total, s, w, g, s_at, w_at + c, g_at, s_shift, w_shift, g_shift,
                        in_c, there, MOVING, PROBES_S, PROBES_W, PROBES_G,
                    )  # fmt: skip
        tl.store(to + a * m_out, tl.sum(total, axis=1), mask=in_b)


@triton.jit(do_not_specialize=SIZES)
def couplings(
    out, s, w, g, tiles, paths, s_row, pair, g_row, n_tiles,
    s_rows, w_rows, g_rows, out_rows, s_width, w_width, g_width, out_width,
    EVERYWHERE: tl.constexpr, MOVING: tl.constexpr, SPARSE_W: tl.constexpr,
    PROBES_S: tl.constexpr, PROBES_W: tl.constexpr, PROBES_G: tl.constexpr,
    WIDTHS: tl.constexpr, WIDEST: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradient to couplings: a program for each edge and kind, and each probe."""
    row = (tl.program_id(0) // n_tiles).to(tl.int64)
    probe = tl.program_id(1).to(tl.int64)
    tile = tiles + (tl.program_id(0) % n_tiles) * TILE
    m = tl.load(tile + 2)
    for i in tl.static_range(1, len(WIDTHS)):
        if (m > WIDTHS[i - 1]) & (m <= WIDTHS[i]):
            _coupling_tile(
                out, s, w, g, tile, paths, s_row, pair, g_row, row, probe,
                s_rows, w_rows, g_rows, out_rows, s_width, w_width, g_width, out_width,
                EVERYWHERE, MOVING, SPARSE_W, PROBES_S, PROBES_W, PROBES_G,
                WIDTHS[i], CHANNELS,
            )  # fmt: skip
