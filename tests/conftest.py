"""A small world for the tests: a true potential, and data and a base model from it."""

from __future__ import annotations

import os


# Read when Triton is imported, as torch may do.
os.environ.setdefault("TRITON_INTERPRET", "1")

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from filelock import FileLock
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.graphs import build_batch, build_data, build_graph
from pft_lightning.kernels import contraction
from pft_lightning.physics.force_constants import from_phonopy
from pft_lightning.testing import PairPotential


# Helpers of several folders: import commands.
sys.path.insert(0, str(Path(__file__).parent))

from interpreted import Twins


# TorchScript, in which e3nn 0.4.4 writes each layer of a network, reads the source of
# the same few functions for each of them: a quarter of the time that a network takes.
torch._jit_internal.get_type_hint_captures = functools.cache(
    torch._jit_internal.get_type_hint_captures
)

# Tests compare to rounding; the order of sums must not depend on the machine's load.
torch.set_num_threads(1)
os.environ.setdefault("WANDB_MODE", "disabled")

CUTOFF = 4.0
ELEMENTS = (3, 9, 11, 12, 8, 17, 14)


@pytest.fixture
def twins(monkeypatch) -> Twins:
    """All sums of a test are computed in C and, as on a GPU, in Triton."""
    pytest.importorskip("triton", "3.9", reason="no Triton here: pip install triton")
    from pft_lightning.kernels.gpu import calls

    both = Twins(calls)
    monkeypatch.setattr(contraction, "_compute_on", lambda device: both.contract)
    return both


@pytest.fixture(scope="session")
def make_once(tmp_path_factory) -> Callable[..., dict[str, Path]]:
    """Make files that no test changes, once for all processes that run the tests."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str, write: Callable[[Path], dict[str, Path]]) -> dict[str, Path]:
        folder, made = root / name, root / f"{name}.json"
        with FileLock(root / f"{name}.lock"):
            if not made.exists():
                folder.mkdir(exist_ok=True)
                paths = {key: str(path) for key, path in write(folder).items()}
                made.write_text(json.dumps(paths))
        return {key: Path(path) for key, path in json.loads(made.read_text()).items()}

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real phonon calculations is not on this machine")
    return folder


def to_batch(atoms: Atoms):
    graph = build_graph(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    return build_batch(
        [build_data(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, graph)]
    )


def true_potential() -> PairPotential:
    """What plays the part of DFT."""
    model = PairPotential(CUTOFF, ELEMENTS)
    with torch.no_grad():
        model.depth *= 1.3
        model.stiffness *= 1.1
    return model


def phonon_of(atoms: Atoms, model: PairPotential, repeats: int = 2) -> Phonopy:
    cell = PhonopyAtoms(
        cell=atoms.cell.array, positions=atoms.positions, numbers=atoms.numbers
    )
    phonon = Phonopy(cell, np.eye(3, dtype=int) * repeats, log_level=0)
    phonon.generate_displacements(distance=0.01)
    forces = []
    for supercell in phonon.supercells_with_displacements:
        displaced = Atoms(
            numbers=supercell.numbers,
            positions=supercell.positions,
            cell=supercell.cell,
            pbc=True,
        )
        forces.append(model.derivatives(to_batch(displaced)).forces.detach().numpy())
    phonon.forces = np.array(forces)
    phonon.produce_force_constants()
    return phonon


def hessian_of(atoms: Atoms, model: PairPotential) -> np.ndarray:
    """Second derivatives (n, n, 3, 3) of a cell, eV/Å², in phonopy's layout."""
    n = len(atoms)
    unit = torch.eye(3 * n, dtype=torch.float64).reshape(-1, n, 3).movedim(0, 1)
    hvp = model.derivatives(to_batch(atoms), tangents=unit).hvp
    return hvp.detach().reshape(n, n, 3, 3).permute(1, 0, 2, 3).numpy()


CRYSTALS = {
    "LiF": bulk("LiF", "rocksalt", 4.9),
    "NaCl": bulk("NaCl", "rocksalt", 5.0),
    "MgO": bulk("MgO", "cesiumchloride", 2.9),
    "Si": bulk("Si", "diamond", 5.4),
    "LiCl": bulk("LiCl", "zincblende", 5.4),
}


@dataclass(frozen=True)
class World:
    """Files of a complete, tiny training."""

    phonons_train: Path
    phonons_val: Path
    upstream_train: Path
    upstream_val: Path
    base: Path


def frames(model: PairPotential, n: int, seed: int) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    found = []
    names = sorted(CRYSTALS)
    for i in range(n):
        atoms = CRYSTALS[names[i % len(names)]].repeat((1, 1, 1 + i % 3))
        strain = np.eye(3) + 0.02 * rng.standard_normal((3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += 0.05 * rng.standard_normal(atoms.positions.shape)
        with torch.no_grad():
            result = model.derivatives(to_batch(atoms))
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=float(result.energy),
            forces=result.forces.numpy(),
            stress=result.stress[0].numpy()[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        )
        found.append(atoms)
    return found


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Four training crystals, one for validation, frames and a base potential."""
    root = tmp_path_factory.mktemp("world")
    truth = true_potential()
    for name, atoms in CRYSTALS.items():
        folder = root / ("val" if name == "LiCl" else "train")
        folder.mkdir(exist_ok=True)
        phonon_of(atoms, truth).save(folder / f"{name}.yaml")
    ase.io.write(root / "train.xyz", frames(truth, 13, seed=1), format="extxyz")
    ase.io.write(root / "val.xyz", frames(truth, 5, seed=2), format="extxyz")
    PairPotential(CUTOFF, ELEMENTS).save(root / "base.pair")
    return World(
        phonons_train=root / "train",
        phonons_val=root / "val",
        upstream_train=root / "train.xyz",
        upstream_val=root / "val.xyz",
        base=root / "base.pair",
    )


@pytest.fixture(scope="session")
def rocksalt_force_constants():
    phonon = phonon_of(CRYSTALS["NaCl"], true_potential())
    return from_phonopy(phonon)[0]


@pytest.fixture
def not_compiled(monkeypatch):
    """Leave everything to torch and the frameworks."""
    from pft_lightning.kernels import compiled

    monkeypatch.setenv("PFT_LIGHTNING_COMPILE", "0")
    compiled.load_library.cache_clear()
    yield
    monkeypatch.undo()
    compiled.load_library.cache_clear()
