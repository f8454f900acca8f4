"""Where soft modes end, and what kind of a phase that is."""

from __future__ import annotations

import dataclasses

import ase
import numpy as np
import pytest
from ase.build import bulk

from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.protocols import compute_phonons
from pft_lightning.evaluation.soft_modes import phases
from pft_lightning.evaluation.soft_modes.columns import problem_of, values_of
from pft_lightning.evaluation.soft_modes.options import SoftModeOptions
from pft_lightning.evaluation.soft_modes.phases import Setting, follow_soft_modes
from pft_lightning.evaluation.soft_modes.symmetry import (
    is_same_phase,
    is_subgroup,
    space_group,
    space_groups,
)
from pft_lightning.testing import PairPotential

from .conftest import PROTOCOL, to_phonopy


@pytest.fixture(scope="module")
def from_bcc():
    """Copper as bcc, which pairs do not hold together."""
    model = PairPotential(4.0, (26, 29))
    start = to_phonopy(bulk("Cu", "bcc", a=2.6), [2, 2, 2])
    phonon = compute_phonons(model, start, PROTOCOL).phonon
    options = SoftModeOptions(max_directions=2, candidates=2, points=4)
    return follow_soft_modes(phonon, Setting(model, PROTOCOL, options, 256, None))


def test_bcc_ends_as_hcp_on_the_path_of_burgers(from_bcc):
    parent, end = from_bcc
    (mode,) = parent.modes
    assert sorted(np.abs(mode.q_point)) == [0, 0.5, 0.5]  # N
    assert space_group(parent.atoms, 1e-3)[0] == "Im-3m"
    assert space_group(end.atoms, 1e-3)[0] == "P6_3/mmc"
    assert end.energy < parent.energy
    assert end.modes == []
    # As it was before the cell was free, and after: never above its parent.
    assert parent.end.energy < parent.end.positions_energy < 0
    assert end.energy - parent.energy == pytest.approx(parent.end.energy, abs=1e-5)
    # The sixfold axis is none of bcc's.
    assert not parent.end.is_subgroup


def test_an_end_that_only_loses_symmetry_is_a_subgroup(from_bcc):
    _, other = from_bcc[0].ends
    assert space_group(other.atoms, 1e-3)[0] == "P4_2/mnm"
    assert other.is_subgroup
    assert other.energy < 0


def test_a_stable_crystal_is_one_generation_without_wells():
    model = PairPotential(4.0, (26, 29))
    start = to_phonopy(bulk("Cu", "fcc", a=3.5), [2, 2, 2])
    phonon = compute_phonons(model, start, PROTOCOL).phonon
    (only,) = follow_soft_modes(
        phonon, Setting(model, PROTOCOL, SoftModeOptions(), 256, None)
    )
    assert only.modes == only.wells == only.ends == []
    assert only.end is None


def test_what_does_not_relax_is_named_and_ends_nothing(cage, rattling):
    protocol = dataclasses.replace(PROTOCOL, max_steps=1)
    options = SoftModeOptions(max_modes=1, max_directions=1, points=4)
    (only,) = follow_soft_modes(
        cage.phonon, Setting(rattling, protocol, options, 256, None)
    )
    assert only.end is None
    assert "did not converge" in only.ends[0].error


def test_a_group_is_none_of_a_crystal_of_another_lattice_or_place():
    cubic = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    moved = cubic.copy()
    moved.positions[0] += [0.0, 0.0, 0.2]
    assert is_subgroup(moved, cubic, 1e-3)
    assert not is_subgroup(cubic, moved, 1e-3)
    stretched = cubic.copy()
    stretched.set_cell(cubic.cell.array * [1, 1, 1.02], scale_atoms=True)
    assert is_subgroup(stretched, cubic, 1e-3)
    assert not is_subgroup(cubic, stretched, 1e-3)


def test_a_shift_of_the_whole_crystal_changes_no_group():
    cubic = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    shifted = cubic.copy()
    shifted.positions += [0.3, 0.1, 0.7]
    assert is_subgroup(shifted, cubic, 1e-3)


def test_a_phase_is_the_same_in_any_cell_volume_and_orientation():
    small = bulk("ZnO", "wurtzite", a=3.2, c=5.2, u=0.38)
    other = small.repeat((2, 1, 1))
    other.set_cell(other.cell.array * 1.03, scale_atoms=True)
    other.rotate(37, (1, 2, 3), rotate_cell=True)
    assert is_same_phase(small, other, 1e-3)
    assert not is_same_phase(small, bulk("ZnO", "zincblende", a=4.5), 1e-3)
    assert not is_same_phase(small, bulk("ZnS", "wurtzite", a=3.2, c=5.2), 1e-3)
    # The same space group, and atoms elsewhere.
    flat = bulk("ZnO", "wurtzite", a=3.2, c=5.2, u=0.45)
    assert not is_same_phase(small, flat, 1e-3)


def test_space_groups_grow_with_the_tolerance():
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.positions[0, 2] += 0.02
    found = space_groups(atoms, (1e-1, 1e-3))
    assert found == {"0.001": "P4mm (99)", "0.1": "Fm-3m (225)"}
    assert space_group(ase.Atoms("Cu2", cell=[3, 3, 3], pbc=True), 1e-3) == ("", 0)


def test_what_was_found_is_kept_where_the_end_cannot_be_looked_at(
    cage, rattling, monkeypatch
):
    def refuse(*args, **options):
        raise DataFormatError("spglib finds no standard cell")

    monkeypatch.setattr(phases, "build_supercell", refuse)
    options = SoftModeOptions(max_modes=1, max_directions=1, candidates=1, points=4)
    found = follow_soft_modes(
        cage.phonon, Setting(rattling, PROTOCOL, options, 256, None)
    )
    (only,) = found
    assert only.error == "spglib finds no standard cell"
    row = values_of(found, options)
    assert row["end_group"] == space_group(only.end.atoms, 1e-3)[0]
    assert row["end_energy"] == pytest.approx(1e3 * only.end.energy)
    assert "end_stable" not in row
    assert "not known to be stable" in problem_of(row)


def test_overlapping_atoms_are_no_end(cage, rattling, monkeypatch):
    monkeypatch.setattr(phases, "space_group", lambda atoms, symprec: ("", 0))
    options = SoftModeOptions(max_modes=1, max_directions=1, candidates=1, points=4)
    found = follow_soft_modes(
        cage.phonon, Setting(rattling, PROTOCOL, options, 256, None)
    )
    assert "do atoms overlap" in problem_of(values_of(found, options))
