"""Messages, and the gradient to features: vectors of components and channels."""

import triton
import triton.language as tl

from pft_lightning.kernels.gpu.common import PATH, SIZES, TILE, moves


@triton.jit
def _add_vectors(
    total, k, x, w, k_at, x_at, w_at, k_shift, x_shift, w_shift,
    m_in, k_in, x_step, in_b, in_c,
    TERMS: tl.constexpr,
    PROBES_K: tl.constexpr, PROBES_X: tl.constexpr, PROBES_W: tl.constexpr,
):  # fmt: skip
    """Add an edge to (components, channels): sum over a of k[a, b] x[a, c] w[c]."""
    for a in range(m_in):
        for i in tl.static_range(0, len(TERMS), 3):
            if TERMS[i] >= 0:
                of_x = x[TERMS[i + 1]] + PROBES_X[TERMS[i + 1]] * x_shift + x_at
                of_w = w[TERMS[i + 2]] + PROBES_W[TERMS[i + 2]] * w_shift + w_at
                product = tl.load(of_x + a * x_step, mask=in_c, other=0.0)
                product *= tl.load(of_w, mask=in_c, other=0.0)
                if TERMS[i] == TERMS[i - 3]:
                    value += product  # type: ignore[has-type]  # noqa: F821
                else:
                    value = product
                if TERMS[i] != TERMS[i + 3]:
                    of_k = k[TERMS[i]] + PROBES_K[TERMS[i]] * k_shift + k_at
                    factor = tl.load(of_k + a * k_in, mask=in_b, other=0.0)
                    total += factor[:, None] * value[None, :]
    return total


@triton.jit
def _vector_tile(
    out, k, x, w, tile, paths, start, order, x_row, pair, row, probe,
    k_rows, x_rows, w_rows, out_rows, k_width, x_width, w_width, out_width,
    EVERYWHERE: tl.constexpr, MOVING: tl.constexpr,
    SPARSE_K: tl.constexpr, SPARSE_W: tl.constexpr,
    PROBES_K: tl.constexpr, PROBES_X: tl.constexpr, PROBES_W: tl.constexpr,
    M: tl.constexpr, WIDEST: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One tile of messages or features, of at most M components."""
    first, step, m_out = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    channels, path, n_paths = tl.load(tile + 3), tl.load(tile + 4), tl.load(tile + 5)
    b, c = tl.arange(0, M), tl.arange(0, CHANNELS)
    in_b, in_c = b < m_out, c < channels
    k_shift, x_shift = probe * k_rows * k_width, probe * x_rows * x_width
    w_shift = probe * w_rows * w_width
    total = tl.zeros((M, CHANNELS), dtype=out.dtype.element_ty)
    for i in range(tl.load(start + row), tl.load(start + row + 1)):
        edge = tl.load(order + i)
        k_row = edge * k_width
        x_first = tl.load(x_row + edge) * x_width
        w_first = tl.load(pair + edge) * w_width
        for p in range(path, path + n_paths):
            t = paths + p * PATH
            m_in, x_step = tl.load(t), tl.load(t + 2)
            k_in, k_out = tl.load(t + 4), tl.load(t + 5)
            k_first = k_row + tl.load(t + 3)
            k_at = k_first + b * k_out
            x_at = x_first + tl.load(t + 1) + c
            w_at = w_first + tl.load(t + 6) + c
            total = _add_vectors(
                total, k, x, w, k_at, x_at, w_at, k_shift, x_shift, w_shift,
                m_in, k_in, x_step, in_b, in_c,
                EVERYWHERE, PROBES_K, PROBES_X, PROBES_W,
            )  # fmt: skip
            if len(MOVING) > 0:
                if moves(
                    k, w, k_first, w_first + tl.load(t + 6), k_shift, w_shift,
                    m_in * m_out, channels, SPARSE_K, SPARSE_W, PROBES_K, PROBES_W,
                    WIDEST, CHANNELS,
                ):  # fmt: skip
                    total = _add_vectors(
                        total, k, x, w, k_at, x_at, w_at, k_shift, x_shift, w_shift,
                        m_in, k_in, x_step, in_b, in_c,
                        MOVING, PROBES_K, PROBES_X, PROBES_W,
                    )  # fmt: skip
    to = out + probe * out_rows * out_width + row * out_width + first
    there = in_b[:, None] & in_c[None, :]
    tl.store(to + b[:, None] * step + c[None, :], total, mask=there)


@triton.jit(do_not_specialize=SIZES)
def vectors(
    out, k, x, w, tiles, paths, start, order, x_row, pair, n_tiles,
    k_rows, x_rows, w_rows, out_rows, k_width, x_width, w_width, out_width,
    EVERYWHERE: tl.constexpr, MOVING: tl.constexpr,
    SPARSE_K: tl.constexpr, SPARSE_W: tl.constexpr,
    PROBES_K: tl.constexpr, PROBES_X: tl.constexpr, PROBES_W: tl.constexpr,
    WIDTHS: tl.constexpr, WIDEST: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Messages, or with both sides exchanged the gradient to features.

    A program for each row and tile, and each probe.
    """
    row = (tl.program_id(0) // n_tiles).to(tl.int64)
    probe = tl.program_id(1).to(tl.int64)
    tile = tiles + (tl.program_id(0) % n_tiles) * TILE
    m = tl.load(tile + 2)
    for i in tl.static_range(1, len(WIDTHS)):
        if (m > WIDTHS[i - 1]) & (m <= WIDTHS[i]):
            _vector_tile(
                out, k, x, w, tile, paths, start, order, x_row, pair, row, probe,
                k_rows, x_rows, w_rows, out_rows, k_width, x_width, w_width, out_width,
                EVERYWHERE, MOVING, SPARSE_K, SPARSE_W, PROBES_K, PROBES_X, PROBES_W,
                WIDTHS[i], WIDEST, CHANNELS,
            )  # fmt: skip
