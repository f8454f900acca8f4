from __future__ import annotations

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms

import pft_lightning as pft
from pft_lightning.data.upstream import UpstreamFrames
from pft_lightning.evaluation.forgetting import (
    collect_errors,
    evaluate_upstream,
    merge,
)
from pft_lightning.testing import PairPotential

from .conftest import CUTOFF, ELEMENTS


@pytest.fixture
def files(potential, tmp_path):
    """Frames labelled by the potential, in two files; one frame without forces."""
    rng = np.random.default_rng(0)
    for name, n_frames in (("a", 4), ("b", 3)):
        frames = []
        for _ in range(n_frames):
            atoms = Atoms(
                "NaClSi" if name == "a" else "MgO",
                positions=rng.uniform(0, 4, (3 if name == "a" else 2, 3)),
                cell=np.eye(3) * 5,
                pbc=True,
            )
            atoms.calc = pft.Calculator(potential)
            atoms.get_stress()
            atoms.calc.results.pop("free_energy")
            frames.append(atoms)
        ase.io.write(tmp_path / f"{name}.xyz", frames, format="extxyz")
    return [tmp_path / "a.xyz", tmp_path / "b.xyz"]


@pytest.fixture
def shifted(potential):
    """One element's reference energy is 0.5 eV off; forces are as before."""
    model = PairPotential(CUTOFF, ELEMENTS)
    model.load_state_dict(potential.state_dict())
    with torch.no_grad():
        model.shift[ELEMENTS.index(12)] += 0.5
    return model


def errors(model, files, **options):
    return merge([collect_errors(model, UpstreamFrames(files, CUTOFF), **options)])


def test_the_potential_of_the_labels_forgot_nothing(potential, files):
    found = errors(potential, files)
    # Files have eight decimals, and atoms that nearly touch make forces of 100 eV/Å.
    assert found["energy_mae"] < 1e-6
    assert found["forces_mae"] < 1e-6
    assert found["stress_mae"] < 1e-6
    assert found["n_structures"] == 7


def test_a_known_error_is_found_per_structure_and_source(shifted, files):
    found = errors(shifted, files)
    # Half an electronvolt on one of two atoms, in three of seven frames.
    assert found["energy_mae"] == pytest.approx(0.25 * 3 / 7, abs=1e-7)
    assert found["per_source"]["b"]["energy_mae"] == pytest.approx(0.25, abs=1e-7)
    assert found["per_source"]["a"]["energy_mae"] < 1e-7
    assert found["per_source"]["a"]["n_structures"] == 4


def test_forces_per_element_are_means_over_its_atoms(potential, files):
    model = PairPotential(CUTOFF, ELEMENTS)
    model.load_state_dict(potential.state_dict())
    with torch.no_grad():
        model.depth *= 1.5
    frames = UpstreamFrames(files, CUTOFF)
    found = merge([collect_errors(model, frames)])
    expected: dict[str, list[float]] = {}
    for index in range(len(frames)):
        record = frames.record(index)
        atoms = Atoms(
            record.atomic_numbers, record.positions, cell=record.cell, pbc=record.pbc
        )
        atoms.calc = pft.Calculator(model)
        difference = np.abs(atoms.get_forces() - record.forces).mean(axis=1)
        for symbol, error in zip(atoms.symbols, difference, strict=True):
            expected.setdefault(symbol, []).append(error)
    assert set(found["per_element"]) == set(expected)
    for symbol, values in expected.items():
        ours = found["per_element"][symbol]
        assert ours["n_atoms"] == len(values)
        assert ours["forces_mae"] == pytest.approx(np.mean(values), rel=1e-9)


@pytest.mark.parametrize("n_ranks", [2, 3, 10])
def test_shares_of_several_processes_add_up(shifted, files, n_ranks):
    frames = UpstreamFrames(files, CUTOFF)
    shares = [
        collect_errors(shifted, frames, rank=rank, n_ranks=n_ranks, max_atoms=4)
        for rank in range(n_ranks)
    ]
    together, alone = merge(shares), errors(shifted, files)
    assert together["n_structures"] == alone["n_structures"]
    assert together["energy_mae"] == pytest.approx(alone["energy_mae"], rel=1e-9)
    assert together["per_element"].keys() == alone["per_element"].keys()


def test_an_ase_calculator_has_the_errors_of_its_model(shifted, files):
    ours, theirs = errors(shifted, files), errors(pft.Calculator(shifted), files)
    assert theirs["energy_mae"] == pytest.approx(ours["energy_mae"], rel=1e-9)
    assert theirs["per_element"].keys() == ours["per_element"].keys()


def test_frames_with_unknown_elements_are_counted(files):
    found = errors(PairPotential(CUTOFF, (8, 12)), files)
    assert found["n_structures"] == 3
    assert found["n_left_out"] == 4


def test_what_was_finished_is_not_computed_again(shifted, files, tmp_path, monkeypatch):
    arguments = ({"m": shifted}, files)
    options = {"fingerprints": {"m": "x"}, "folder": tmp_path / "eval"}
    first = evaluate_upstream(*arguments, **options)

    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr("pft_lightning.evaluation.forgetting.collect_errors", refuse)
    assert evaluate_upstream(*arguments, **options) == first
    changed = {**options, "fingerprints": {"m": "y"}}
    assert "computed again" in evaluate_upstream(*arguments, **changed)["m"]["error"]


def test_frames_beyond_the_limits_are_left_out_until_the_limits_are_raised(
    potential, files, tmp_path
):
    atoms = ase.io.read(files[1])
    atoms.calc.results["stress"] = atoms.calc.results["stress"] * 0 + 20.0
    ase.io.write(files[1], atoms, format="extxyz")
    found = {}
    for name, limits in (("default", None), ("raised", {"max_stress": 30.0})):
        with pytest.warns(UserWarning, match=r"max_stress|the labels of stress"):
            found[name] = evaluate_upstream(
                {"m": potential},
                files[1:] + files[:1],
                limits=limits,
                fingerprints={"m": "x"},
                folder=tmp_path / "eval",
            )["m"]
    assert found["default"]["n_structures"] == 4
    assert found["raised"]["n_structures"] == 5
    assert found["raised"]["stress_mae"] > 1.0


def test_no_remedy_names_an_option_that_the_evaluation_lacks(shifted, files):
    with torch.no_grad():
        shifted.shift += 50.0
    with pytest.warns(UserWarning, match="labels of energy differ") as told:
        collect_errors(shifted, UpstreamFrames(files, CUTOFF))
    assert not any("loss.upstream" in str(warning.message) for warning in told)
