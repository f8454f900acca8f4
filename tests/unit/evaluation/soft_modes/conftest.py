"""Crystals with soft modes by a potential that is fast and exact."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.evaluation.protocols import PROTOCOLS, Protocol, compute_phonons
from pft_lightning.evaluation.soft_modes.modes import SupercellWaves
from pft_lightning.testing import PairPotential


# Ends are looked at through their phonons, which need forces near zero.
PROTOCOL: Protocol = dataclasses.replace(PROTOCOLS["mdr_analytic"], fmax=1e-3)


def to_phonopy(atoms: Atoms, matrix: list[int]) -> Phonopy:
    cell = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
    )
    return Phonopy(cell, matrix, primitive_matrix="P", log_level=0)


def waves_of(model: PairPotential, atoms: Atoms, matrix: list[int]) -> SupercellWaves:
    """Phonons of a crystal that has been relaxed."""
    phonon = compute_phonons(model, to_phonopy(atoms, matrix), PROTOCOL).phonon
    return SupercellWaves.of(phonon)


@pytest.fixture(scope="package")
def rattling() -> PairPotential:
    """Large atoms that touch, and small ones with room to move between them."""
    model = PairPotential(5.0, (17, 55))
    with torch.no_grad():
        model.depth[:] = torch.tensor([1.0, 0.2])
        model.radius[:] = torch.tensor([1.85, 0.7])
        model.stiffness[:] = 1.8
    return model


@pytest.fixture(scope="package")
def cage(rattling) -> SupercellWaves:
    """CsCl with unstable modes at every point of symmetry."""
    return waves_of(rattling, bulk("CsCl", "cesiumchloride", a=3.4), [2, 2, 2])


@pytest.fixture(scope="package")
def perovskite() -> SupercellWaves:
    """SrTiO3's structure; force constants of its symmetry, whatever their values."""
    model = PairPotential(5.0, (8, 22, 38))
    places = [[0, 0, 0], *(np.ones((4, 3)) / 2 - np.eye(4, 3, k=-1) / 2)]
    atoms = Atoms("SrTiO3", scaled_positions=places, cell=np.eye(3) * 3.9, pbc=True)
    phonon = to_phonopy(atoms, [2, 2, 2])
    protocol = dataclasses.replace(PROTOCOL, relax=False)
    return SupercellWaves.of(compute_phonons(model, phonon, protocol).phonon)
