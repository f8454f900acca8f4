"""Crystals with elastic data: what is read, and what is left out with a reason."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from pft_lightning import keys
from pft_lightning.data.elastic import ElasticCrystals
from pft_lightning.errors import DataFormatError


CUTOFF = 4.0
SHAPE = (6, 6)


def constants() -> np.ndarray:
    """Of a cubic crystal, GPa."""
    found = np.diag([100.0, 100, 100, 30, 30, 30])
    found[:3, :3] += 40 * (1 - np.eye(3))
    return found


def frame(**info) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.info.update(info)
    return atoms


def write(path, *frames) -> str:
    ase.io.write(path, list(frames), format="extxyz")
    return str(path)


def entry(**values) -> dict:
    """Of a table, as matcalc's are."""
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    sites = [
        {"species": [{"element": symbol, "occu": 1}], "abc": list(map(float, abc))}
        for symbol, abc in zip(atoms.symbols, atoms.get_scaled_positions(), strict=True)
    ]
    structure = {"lattice": {"matrix": atoms.cell.array.tolist()}, "sites": sites}
    return {"mp_id": "mp-1", "structure": structure, **values}


def test_frames_and_tables_give_the_same_crystals(tmp_path):
    tensor = constants() + np.triu(np.full(SHAPE, 0.2), 1)
    xyz = write(
        tmp_path / "a.xyz",
        frame(name="full", elastic_constants=tensor.ravel()),
        frame(name="moduli", bulk_modulus=60.0, shear_modulus=30.0, clamped_ions=True),
    )
    table = tmp_path / "b.json"
    moduli = {"bulk_modulus_vrh": 60.0, "shear_modulus_vrh": 30.0}
    full = {"raw": tensor.tolist(), "ieee_format": (2 * tensor).tolist()}
    table.write_text(
        json.dumps(
            [
                entry(mp_id="full2", elastic_tensor=full),
                entry(mp_id="moduli2", clamped_ions=True, **moduli),
            ]
        )
    )
    source = ElasticCrystals([xyz, str(table)], CUTOFF)
    assert source.names == ["full", "moduli", "full2", "moduli2"]
    assert not source.skipped
    for index, name in enumerate(source.names):
        data = source.data(index)
        is_full = name.startswith("full")
        np.testing.assert_allclose(data[keys.CELL][0], frame().cell.array)
        assert bool(data[keys.CONSTANTS_MASK]) == is_full
        assert bool(data[keys.MODULI_MASK]) != is_full
        assert bool(data[keys.CLAMPED]) != is_full
        assert not data[keys.STRESS_MASK].any()
        if is_full:
            np.testing.assert_allclose(
                data[keys.ELASTIC_CONSTANTS][0], (tensor + tensor.T) / 2, rtol=1e-7
            )
        else:
            np.testing.assert_array_equal(data[keys.MODULI][0], [60, 30])
    known, dropped = source.select([11, 17])
    assert (len(known), dropped) == (4, [])
    with pytest.raises(DataFormatError, match="no such file"):
        ElasticCrystals(tmp_path / "c.xyz", CUTOFF)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({}, "no elastic_constants"),
        ({"bulk_modulus": 60.0}, "no elastic_constants"),
        ({"elastic_constants": np.full(36, np.nan)}, "finite"),
        ({"elastic_constants": constants().ravel()[:30]}, "shape"),
        ({"elastic_constants": 1e9 * constants().ravel()}, "Pa"),
        ({"elastic_constants": 1e-4 * constants().ravel()}, "eV/Å³"),
        ({"elastic_constants": np.triu(constants()).ravel()}, "transpose"),
        ({"elastic_constants": (constants() - 110 * np.eye(6)).ravel()}, "gives way"),
        ({"elastic_constants": "stiff"}, "no numbers"),
        ({"bulk_modulus": -3.0, "shear_modulus": 10.0}, "gives way"),
        ({"bulk_modulus": 6e10, "shear_modulus": 1e10}, "Pa"),
        ({"bulk_modulus": "hard", "shear_modulus": 10.0}, "no number"),
        ({"bulk_modulus": float("inf"), "shear_modulus": 10.0}, "GPa"),
        (
            {"bulk_modulus": 60.0, "shear_modulus": 30.0, "clamped_ions": "no"},
            "clamped_ions is 'no'",
        ),
    ],
)
def test_a_crystal_that_cannot_be_used_is_left_out_with_a_reason(
    info, reason, tmp_path
):
    good = frame(bulk_modulus=60.0, shear_modulus=30.0, name="good")
    source = ElasticCrystals(
        write(tmp_path / "a.xyz", frame(name="bad", **info), good), CUTOFF
    )
    assert source.names == ["good"]
    ((where, why),) = source.skipped
    assert reason in why
    assert where in why
    assert "frame 0" in where


def test_molecules_slabs_and_entries_of_other_kinds_are_left_out(tmp_path):
    moduli = {"bulk_modulus": 60.0, "shear_modulus": 30.0}
    water = molecule("H2O")
    water.info.update(moduli)
    slab = fcc111("Cu", (1, 1, 3), vacuum=8.0)
    slab.info.update(moduli)
    path = write(tmp_path / "a.xyz", water, slab)
    with pytest.raises(DataFormatError, match="none of 2") as caught:
        ElasticCrystals(path, CUTOFF)
    assert str(caught.value).count("expected a crystal, periodic along three") == 2
    table = tmp_path / "t.json"
    for content in ("[{}]", '[{"mp_id": "a", "structure": 3}]', "{}", "[", "[3]"):
        table.write_text(content)
        with pytest.raises(DataFormatError, match=r"t\.json"):
            ElasticCrystals(table, CUTOFF)
    for name in ("a.cif", "a.db"):
        (tmp_path / name).write_text("x")
        with pytest.raises(DataFormatError, match="extended XYZ"):
            ElasticCrystals(tmp_path / name, CUTOFF)


def test_names_that_occur_twice_are_kept_apart(tmp_path):
    names = ["a", "a (2)", "a", "a"]
    frames = [frame(bulk_modulus=60.0, shear_modulus=30.0, name=name) for name in names]
    source = ElasticCrystals(write(tmp_path / "a.xyz", *frames), CUTOFF)
    assert len(set(source.names)) == 4
