"""Modes paired with those of a reference by what they move."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from pft_lightning.errors import ShapeError
from pft_lightning.losses.properties import PropertyErrors
from pft_lightning.physics.assignment import assign_by_overlap
from pft_lightning.physics.vibrations import Spectrum, square_unit


ORDER = PropertyErrors(kind="mse")
OVERLAP = replace(ORDER, assignment="overlap")


def basis_of(seed: int, n: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    random = rng.normal(size=(n, n)) + 1j * rng.normal(size=(n, n))
    return np.linalg.qr(random)[0]


def matrix_of(squares, basis) -> torch.Tensor:
    """One Hermitian matrix (1, n, n) with these eigenvalues, THz²."""
    found = basis @ np.diag(np.array(squares, float)) @ basis.conj().T
    return torch.from_numpy(found)[None] / square_unit()


def spectrum_of(matrices: torch.Tensor, gamma: bool = False) -> Spectrum:
    weights = torch.full((len(matrices),), 1 / len(matrices), dtype=torch.float64)
    is_gamma = torch.full((len(matrices),), gamma)
    return Spectrum.of(matrices, weights, is_gamma, keep_modes=True)


def slightly_turned(basis: np.ndarray, angle: float = 0.2) -> np.ndarray:
    """Modes of a potential, which are not quite those of the reference."""
    generator = basis_of(9) - basis_of(9).conj().T
    values, vectors = np.linalg.eigh(1j * generator)
    return basis @ (vectors * np.exp(-1j * angle * values)) @ vectors.conj().T


def test_branches_that_cross_keep_their_symmetry():
    """Two modes, along x and y, have changed places: in order nothing is wrong."""
    reference = spectrum_of(matrix_of([25, 36], np.eye(2)))
    matrices = matrix_of([36, 25], np.eye(2)).requires_grad_()
    crossed = spectrum_of(matrices)
    assert assign_by_overlap(crossed, reference).tolist() == [[1, 0]]
    in_order = ORDER.loss("frequencies", crossed, reference)
    assert float(in_order) == pytest.approx(0, abs=1e-20)
    loss = OVERLAP.loss("frequencies", crossed, reference)
    assert float(loss) == pytest.approx(1, rel=1e-6)
    # A step down brings each nearer to its own: x from 6 THz to 5, y from 5 to 6.
    (gradient,) = torch.autograd.grad(loss, matrices)
    along = gradient[0].real.diagonal()
    assert along[0] > 0 > along[1]
    assert float(gradient[0, 0, 1].abs()) < 1e-12 * float(along[0])


def test_the_order_of_equal_modes_is_that_of_the_reference():
    basis = basis_of(1)
    squares = [-4, 1, 9, 16, 25, 36]
    both = spectrum_of(matrix_of(squares, basis))
    other = spectrum_of(matrix_of([2 * s + 1 for s in squares], basis))
    assert assign_by_overlap(other, both).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_overlaps_sum_to_the_most():
    """Beside all permutations of six modes that are turned by much."""
    rng = np.random.default_rng(2)
    for seed in range(5):
        squares = np.sort(rng.uniform(1, 50, size=(2, 6)), axis=1)
        basis = basis_of(seed)
        reference = spectrum_of(matrix_of(squares[0], basis))
        model = spectrum_of(matrix_of(squares[1], slightly_turned(basis, 1.0)))
        overlaps = (reference.modes.mH @ model.modes)[0].abs().square().numpy()
        found = assign_by_overlap(model, reference)[0].numpy()
        best = max(sum(overlaps[range(6), some]) for some in permutations(range(6)))
        assert sum(overlaps[range(6), found]) == pytest.approx(best, rel=1e-12)


# Degenerate groups of the reference and of the potential, THz².
GROUPS = {
    "the same": ([4, 4, 9, 9, 9, 25], [9, 9, 16, 16, 16, 20]),
    "crossed": ([4, 4, 9, 9, 9, 25], [36, 36, 16, 16, 16, 20]),
    "one by accident": ([4, 4, 4, 9, 25, 25], [3, 5, 7, 12, 20, 20]),
    "all": ([9] * 6, [4, 4, 4, 16, 16, 16]),
}


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_no_choice_within_degenerate_modes_matters(name):
    theirs, ours = GROUPS[name]
    basis = basis_of(3)
    reference = spectrum_of(matrix_of(theirs, basis))
    matrices = matrix_of(ours, slightly_turned(basis))
    losses, pairs, gradients = [], [], []
    for seed in range(6):
        leaf = matrices.clone().requires_grad_()
        model = spectrum_of(leaf)
        turned = [
            replace(one, modes=turn_groups(one, seed + 10 * k))
            for k, one in enumerate((model, reference))
        ]
        loss = OVERLAP.loss("frequencies", *turned)
        losses.append(float(loss))
        pairs.append(assign_by_overlap(*turned).tolist())
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    assert pairs == pairs[:1] * 6
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)
    for gradient in gradients:
        assert (gradient - gradients[0]).abs().max() < 1e-12 * gradient.abs().max()
    if name == "crossed":
        # The three of 3 THz are those of 4, the two of 2 THz those of 6.
        assert pairs[0][0] == [4, 5, 0, 1, 2, 3]


def turn_groups(spectrum: Spectrum, seed: int) -> torch.Tensor:
    """Modes in another basis of each degenerate group; seed 0 leaves them."""
    modes = spectrum.modes.clone()
    squares = spectrum.squares[0].detach().numpy()
    for value in np.unique(np.round(squares, 3)):
        members = np.flatnonzero(np.abs(squares - value) < 0.01)
        turn = np.eye(len(members)) if seed == 0 else basis_of(seed, len(members))
        modes[0][:, members] = modes[0][:, members] @ torch.from_numpy(turn + 0j)
    return modes


@pytest.mark.parametrize("name", ["apart", *sorted(GROUPS)])
def test_gradients_are_central_differences(name):
    """Along changes that keep the symmetry of degenerate modes, as of a potential."""
    theirs, ours = GROUPS.get(name, ([1, 4, 9, 16, 25, 36], [30, 2, 5, 20, 18, 50]))
    basis = basis_of(3)
    reference = spectrum_of(matrix_of(theirs, basis))
    matrices = matrix_of(ours, slightly_turned(basis))
    if name == "apart":
        change = torch.from_numpy(basis_of(5) + basis_of(5).conj().T)[None] * 1e-3
    else:
        # A function of the matrix: each group moves as a whole, by its own amount.
        change = torch.linalg.matrix_power(matrices, 2) - 0.3 * matrices

    def loss_of(step: float) -> float:
        model = spectrum_of(matrices + step * change)
        return float(OVERLAP.loss("frequencies", model, reference))

    leaf = matrices.clone().requires_grad_()
    loss = OVERLAP.loss("frequencies", spectrum_of(leaf), reference)
    (gradient,) = torch.autograd.grad(loss, leaf)
    along = float((gradient.conj() * change).real.sum())
    first, second = ((loss_of(h) - loss_of(-h)) / (2 * h) for h in (1e-4, 2e-4))
    expected = (4 * first - second) / 3
    assert along == pytest.approx(expected, rel=1e-6)
    assert abs(expected) > 1e-3


def test_translations_are_paired_with_translations():
    """Also where modes of a potential are softer than they are."""
    basis = basis_of(4)
    reference = spectrum_of(matrix_of([0, 0, 0, 9, 16, 25], basis), gamma=True)
    model = spectrum_of(matrix_of([1e-9, 0, 0, 25, 16, -9], basis), gamma=True)
    found = assign_by_overlap(model, reference)[0].tolist()
    # Of the potential -9, 16 and 25 come after its translations.
    assert found == [0, 1, 2, 5, 4, 3]
    loss = replace(OVERLAP, kind="mae").loss("frequencies", model, reference)
    assert float(loss) == pytest.approx((2 + 0 + 8) / 3, rel=1e-5)


def test_spectra_without_modes_are_refused():
    matrices = matrix_of([1, 4], np.eye(2))
    plain = Spectrum.of(matrices, torch.ones(1), torch.tensor([False]))
    with pytest.raises(ShapeError, match="without their modes"):
        assign_by_overlap(plain, spectrum_of(matrices))
