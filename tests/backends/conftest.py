"""Models of the backend tests, written to files once per session."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk


# JAX compiles what is computed once; this is what takes it least time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

HERE = Path(__file__).parent
DATA = HERE / "data"
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def mace_files(make_once) -> dict[str, Path]:
    """Networks of MACE by name, see ``models.write_variants``."""
    from models import write_variants

    return make_once("mace_networks", write_variants)


@pytest.fixture(scope="session")
def nequip_files(make_once) -> dict[str, Path]:
    """Networks of NequIP by name, see ``nequip_models.write_variants``."""
    from nequip_models import write_variants

    return make_once("nequip_networks", write_variants)


@pytest.fixture
def rattled() -> ase.Atoms:
    """Four atoms in a cell smaller than any cutoff."""
    atoms = bulk("NaCl", "rocksalt", 5.5) * (2, 1, 1)
    atoms.positions += np.random.default_rng(0).normal(scale=0.05, size=(4, 3))
    return atoms


@pytest.fixture(autouse=True)
def no_global_side_effects():
    """Loading, evaluating and saving leave torch's global settings alone."""
    before = torch.get_default_dtype(), torch.random.get_rng_state()
    legacy = np.random.get_state()[1].copy()  # noqa: NPY002
    yield
    assert torch.get_default_dtype() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002


def assert_same_as(calculator, model, atoms: ase.Atoms, tolerance: float = 1e-10):
    """Energy, forces and stress of a model equal those of another calculator."""
    from pft_lightning.backends.calculator import Calculator

    ours, theirs = atoms.copy(), atoms.copy()
    ours.calc, theirs.calc = Calculator(model), calculator
    before = torch.get_default_dtype()
    try:
        energy, forces = theirs.get_potential_energy(), theirs.get_forces()
        stress = theirs.get_stress()
    finally:
        torch.set_default_dtype(before)
    assert abs(ours.get_potential_energy() - energy) < tolerance
    assert np.abs(ours.get_forces() - forces).max() < tolerance
    assert np.abs(ours.get_stress() - stress).max() < tolerance
