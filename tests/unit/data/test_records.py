from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from pft_lightning import keys
from pft_lightning.data.records import StructureRecord, to_data, validate
from pft_lightning.errors import DataFormatError
from pft_lightning.graphs import build_batch, build_graph
from pft_lightning.physics.force_constants import from_phonopy


@pytest.fixture
def record(spring_phonon) -> StructureRecord:
    phonon = spring_phonon()
    phonon.produce_force_constants(calculate_full_force_constants=False)
    cell = phonon.supercell
    return StructureRecord(
        name="NaCl",
        atomic_numbers=np.array(cell.numbers, dtype=np.int64),
        positions=cell.positions,
        cell=np.array(cell.cell),
        pbc=np.ones(3, dtype=bool),
        energy=-3.0,
        forces=np.full((16, 3), 0.1),
        stress=np.eye(3),
        force_constants=from_phonopy(phonon)[0],
        info={"source": "NaCl.yaml"},
    )


def graph_of(record: StructureRecord):
    return build_graph(record.positions, record.cell, record.pbc, 4.0)


def test_known_targets_reach_the_batch(record: StructureRecord) -> None:
    data = to_data(validate(record), graph_of(record))
    batch = build_batch([data, data])
    assert batch[keys.ENERGY].tolist() == [-3.0, -3.0]
    assert batch[keys.FORCES].shape == (32, 3)
    assert batch[keys.STRESS].shape == (2, 3, 3)
    for mask in (keys.ENERGY_MASK, keys.FORCES_MASK, keys.STRESS_MASK):
        assert batch[mask].dtype == torch.bool
        assert batch[mask].tolist() == [True, True]
    assert batch[keys.NAME] == ["NaCl", "NaCl"]
    assert batch[keys.FORCE_CONSTANTS] == [record.force_constants] * 2
    assert pickle.loads(pickle.dumps(batch))[keys.NAME] == ["NaCl", "NaCl"]


def test_unknown_targets_are_masked(record: StructureRecord) -> None:
    bare = replace(record, energy=None, forces=None, stress=None, force_constants=None)
    data = to_data(validate(bare), graph_of(record))
    for target in (keys.ENERGY, keys.FORCES, keys.STRESS):
        assert not data[target].any()
    for mask in (keys.ENERGY_MASK, keys.FORCES_MASK, keys.STRESS_MASK):
        assert data[mask].tolist() == [False]
    assert keys.FORCE_CONSTANTS not in data


def changed(array: np.ndarray, value: float) -> np.ndarray:
    array = np.array(array)
    array.flat[4] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {"energy": float("inf")}, "energy is inf"),
        (lambda r: {"forces": changed(r.forces, np.nan)}, r"forces\[1, 1\] is nan"),
        (lambda r: {"forces": changed(r.forces, -1e6)}, r"1e\+06 eV/Å; at most 1000"),
        (lambda r: {"forces": r.forces[:-1]}, r"\(15, 3\); expected \(16, 3\)"),
        (lambda r: {"stress": np.zeros(6)}, r"stress has shape \(6,\)"),
        (lambda r: {"cell": r.cell * 0}, "volume of 0"),
        (lambda r: {"positions": r.positions * 1e-3}, "Å apart"),
        (lambda r: {"positions": changed(r.positions, np.inf)}, "is inf"),
        (lambda r: {"atomic_numbers": r.atomic_numbers * 0}, "0 to 0; expected 1 to"),
        (lambda r: {"atomic_numbers": r.atomic_numbers[:0]}, "no atoms"),
        (
            lambda r: {
                "force_constants": replace(
                    r.force_constants, compact=-r.force_constants.compact
                )
            },
            "sign is flipped",
        ),
        (
            lambda r: {
                "force_constants": replace(
                    r.force_constants, compact=r.force_constants.compact * 1e4
                )
            },
            "largest force constant.*units",
        ),
    ],
)
def test_bad_values_name_file_value_and_remedy(
    record: StructureRecord, change, message: str
) -> None:
    with pytest.raises(DataFormatError, match=message) as caught:
        validate(replace(record, **change(record)))
    assert "NaCl.yaml" in str(caught.value)


def test_molecules_need_no_cell() -> None:
    molecule = StructureRecord(
        name="H2",
        atomic_numbers=np.array([1, 1]),
        positions=np.array([[0.0, 0, 0], [0, 0, 0.74]]),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
    )
    data = to_data(validate(molecule), graph_of(molecule))
    assert data[keys.EDGE_INDEX].tolist() == [[0, 1], [1, 0]]
