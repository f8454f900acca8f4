"""Structures and arguments that the Python functions take and refuse."""

from __future__ import annotations

import copy

import ase
import numpy as np
import pytest
import torch

from pft_lightning import keys
from pft_lightning.backends.calculator import Calculator, hessian_vector_product
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import ConfigError, DataFormatError, ShapeError
from pft_lightning.evaluation.force_constants import force_constants
from pft_lightning.testing import PairPotential, build_crystal_batch


@pytest.fixture
def model() -> PairPotential:
    return PairPotential(4.5, [11, 17])


def test_unknown_elements_are_named(model, rattled):
    strange = rattled.copy()
    strange.numbers[:] = [11, 26, 92, 17]
    batch = build_crystal_batch([rattled, strange], 4.5)
    batch[keys.NAME] = ["fine", "strange"]
    with pytest.raises(ConfigError, match=r"Fe, U \(structures: strange\).*Na, Cl"):
        model.derivatives(batch)
    with pytest.raises(ConfigError, match="Z=300"):
        model.arrangement().check_elements(torch.tensor([300]))
    with pytest.raises(ConfigError, match="Z=-4"):
        model.arrangement().check_elements(torch.tensor([-4]))


def test_preparing_leaves_the_batch_alone(model, rattled):
    batch = build_crystal_batch([rattled], 6.0)
    before = copy.deepcopy(batch)
    prepared = model.prepare(batch)
    assert prepared.num_edges < batch.num_edges
    for key, value in before.to_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(batch[key], value)


def test_calculator(model, rattled):
    rattled.calc = Calculator(model)
    result = model.derivatives(build_crystal_batch([rattled], model.cutoff))
    energy = rattled.get_potential_energy()
    assert energy == rattled.get_potential_energy(force_consistent=True)
    assert energy == pytest.approx(float(result.energy.detach()), abs=1e-13)
    assert np.abs(rattled.get_forces() - result.forces.detach().numpy()).max() < 1e-13
    stress = result.stress[0].detach().numpy()
    assert np.abs(rattled.get_stress(voigt=False) - stress).max() < 1e-15


@pytest.mark.parametrize("device", ["cuda:7", "mps", "gpu", 3.5])
def test_a_device_that_is_not_there(model, tmp_path, device):
    model.save(tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=rf"device='{device}' is not available"):
        load_model(tmp_path / "model.pt", device=device)


def test_wrong_arguments_are_named(model, rattled, tmp_path):
    with pytest.raises(ConfigError, match=r"path is 5"):
        load_model(5)
    model.save(tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="trust='yes'"):
        load_model(tmp_path / "model.pt", trust="yes")
    with pytest.raises(ConfigError, match="model is a str"):
        Calculator("model.pt")
    with pytest.raises(ConfigError, match="model is a str"):
        hessian_vector_product("model.pt", rattled, np.ones((4, 3)))
    with pytest.raises(ConfigError, match="atoms is a str"):
        hessian_vector_product(model, "POSCAR", np.ones((4, 3)))
    for tangents in ("abc", [["a"] * 3] * 4, np.full((4, 3), np.nan), [[1j] * 3] * 4):
        with pytest.raises(ShapeError, match="tangents"):
            hessian_vector_product(model, rattled, tangents)
    with pytest.raises(ConfigError, match=r"phonon is a str.*evaluate_phonons"):
        force_constants(model, "phonopy.yaml")


def test_structures_without_an_energy_are_named(model, rattled):
    empty, nowhere, flat = ase.Atoms(), rattled.copy(), rattled.copy()
    nowhere.positions[2] = np.nan
    flat.cell[:] = 0.0
    line = rattled.copy()
    line.cell[2] = line.cell[1]
    for atoms, pattern in (
        (empty, "no atoms"),
        (nowhere, "position of atom 2 is not finite"),
        (flat, "does not span"),
        (line, "does not span"),
    ):
        atoms.calc = Calculator(model)
        with pytest.raises(DataFormatError, match=pattern):
            atoms.get_potential_energy()
        with pytest.raises(DataFormatError, match=pattern):
            hessian_vector_product(model, atoms, np.zeros((len(atoms), 3)))


def test_cells_that_are_not_in_angstrom_are_named_before_neighbours_are_listed(model):
    small = ase.Atoms(
        "NaCl", [[0, 0, 0], [1e-3, 0, 0]], cell=np.eye(3) * 2e-3, pbc=True
    )
    crowded = ase.Atoms("Na3000", np.zeros((3000, 3)), cell=np.eye(3) * 0.5, pbc=True)
    slab = small.copy()
    slab.pbc = [True, False, True]
    for atoms, pattern in (
        (small, "0.002 Å thick"),
        (slab, "0.002 Å thick"),
        (crowded, "within the cutoff"),
    ):
        atoms.calc = Calculator(model)
        with pytest.raises(ShapeError, match=pattern):
            atoms.get_potential_energy()


def test_calculator_without_cell_or_neighbours(model):
    for positions in ([[0, 0, 0]], [[0, 0, 0], [0, 0, 30.0]], [[0, 0, 0], [0, 0, 2.6]]):
        atoms = ase.Atoms("NaCl"[: 2 * len(positions)], positions)
        atoms.calc = Calculator(model)
        assert np.isfinite(atoms.get_potential_energy())
        assert np.isfinite(atoms.get_forces()).all()
        assert np.array_equal(atoms.get_stress(), np.zeros(6))
        hvp = hessian_vector_product(model, atoms, np.ones((len(atoms), 3)))
        assert np.array_equal(hvp, np.zeros((len(atoms), 3)))


def test_periodic_in_two_directions(model, rattled):
    slab = rattled.copy()
    slab.pbc = [True, True, False]
    slab.calc = Calculator(model)
    assert np.isfinite(slab.get_stress()).all()


def test_hessian_vector_product(model, rattled):
    tangents = np.random.default_rng(0).normal(size=(4, 2, 3))
    products = hessian_vector_product(model, rattled, tangents)
    assert products.shape == (4, 2, 3)
    assert products.dtype == np.float64
    for k in range(2):
        one = hessian_vector_product(model, rattled, tangents[:, k])
        assert np.abs(one - products[:, k]).max() < 1e-14
    other = hessian_vector_product(
        model, rattled, tangents, engine="forward_over_reverse"
    )
    assert np.abs(other - products).max() < 1e-13
    for shape in ((3, 3), (4, 2), (12,), (4, 3, 2)):
        with pytest.raises(ShapeError, match="with n_atoms=4"):
            hessian_vector_product(model, rattled, np.zeros(shape))
