"""Phonon documents of atomate2 and the Materials Project, in each of their layouts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phonopy import Phonopy

from pft_lightning.data.readers import list_entries, read_phonon
from pft_lightning.data.store import PhononStore, build_store
from pft_lightning.errors import DataFormatError


NAME = "NaCl conventional"
DIELECTRIC = (np.eye(3) * 2.4).tolist()


def to_document(phonon: Phonopy, *, full: bool = True) -> dict[str, Any]:
    """What atomate2 stores of a phonon calculation."""
    phonon.produce_force_constants(calculate_full_force_constants=full)
    cell = phonon.unitcell
    sites = [
        {
            "species": [{"element": symbol, "occu": 1}],
            "abc": position.tolist(),
            "properties": {"magmom": 0.0},
            "label": symbol,
        }
        for symbol, position in zip(cell.symbols, cell.scaled_positions, strict=True)
    ]
    charge = (np.eye(3) * 1.1).tolist()
    return {
        "structure": {
            "@module": "pymatgen.core.structure",
            "@class": "Structure",
            "charge": 0,
            "lattice": {"matrix": cell.cell.tolist(), "pbc": [True, True, True]},
            "sites": sites,
        },
        "phonon_bandstructure": {"bands": []},
        "force_constants": {
            "@module": "atomate2.common.schemas.phonons",
            "@class": "ForceConstants",
            "force_constants": phonon.force_constants.tolist(),
        },
        "supercell_matrix": phonon.supercell_matrix.tolist(),
        "primitive_matrix": phonon.primitive_matrix.tolist(),
        "born": [charge, (-np.array(charge)).tolist()],
        "epsilon_static": DIELECTRIC,
        "total_dft_energy": -7.0,
        "formula_units": 4,
        "code": "vasp",
    }


def _unchanged(document: dict) -> Any:
    return document


def _plain_list(document: dict) -> Any:
    """As emmet-core keeps it since 2025."""
    document["force_constants"] = document["force_constants"]["force_constants"]
    return document


def _serialised_array(document: dict) -> Any:
    rows = document["force_constants"]["force_constants"]
    array = {"@module": "numpy", "@class": "array", "dtype": "float64", "data": rows}
    document["force_constants"]["force_constants"] = array
    return document


def _of_a_query(document: dict) -> Any:
    return {"data": [document], "meta": {"total_doc": 1}}


def _of_a_job(document: dict) -> Any:
    return {"uuid": "x", "index": 1, "output": document}


@pytest.fixture(scope="module")
def phonon(spring_phonon) -> Phonopy:
    return spring_phonon(NAME)


@pytest.mark.parametrize(
    "arrange", [_unchanged, _plain_list, _serialised_array, _of_a_query, _of_a_job]
)
@pytest.mark.parametrize("full", [True, False])
def test_every_layout_gives_the_force_constants_that_phonopy_has(
    phonon, tmp_path: Path, arrange: Callable[[dict], Any], full: bool
) -> None:
    path = tmp_path / "doc.json.gz"
    text = json.dumps(arrange(to_document(phonon, full=full)))
    path.write_bytes(gzip.compress(text.encode()))
    record = read_phonon(path)
    phonon.produce_force_constants(calculate_full_force_constants=True)
    np.testing.assert_allclose(
        record.force_constants.full(), phonon.force_constants, atol=1e-8
    )
    np.testing.assert_allclose(record.positions, phonon.supercell.positions, atol=1e-9)
    assert record.pbc.all()
    assert record.energy is None
    assert record.cells.magnetic_moments is None
    np.testing.assert_allclose(record.cells.born[0], np.eye(3) * 1.1, atol=1e-12)
    np.testing.assert_allclose(record.cells.dielectric, DIELECTRIC)
    assert record.name == "doc"


def test_a_list_of_documents_is_as_many_materials(
    spring_phonon, tmp_path: Path
) -> None:
    documents = []
    for name, key in (("simple cubic", "material_id"), ("one cell", "identifier")):
        documents.append({**to_document(spring_phonon(name)), key: f"mp-{len(name)}"})
    documents.append({"material_id": "mp-3", "ph_bs": {}})
    documents.append({"material_id": "mp-4", "force_constants": {"blob_uuid": "x"}})
    path = tmp_path / "found.json"
    path.write_text(json.dumps(documents))
    assert list_entries(path) == [0, 1, 2, 3]
    report = build_store(tmp_path, tmp_path / "x.store", cutoff=4.0, progress=False)
    store = PhononStore(tmp_path / "x.store")
    assert store.names == ["mp-12", "mp-8"]
    reasons = [reason for _, reason in report.skipped]
    assert "found.json, document 2: has no force constants" in reasons[0]
    assert "document 3: its force constants are in another store" in reasons[1]
    with pytest.raises(DataFormatError, match="holds 4 structures"):
        read_phonon(path)


def _without_supercell(document: dict) -> None:
    document["supercell_matrix"] = None


def _other_supercell(document: dict) -> None:
    document["supercell_matrix"] = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def _disordered(document: dict) -> None:
    document["structure"]["sites"][2]["species"] = [
        {"element": "Na", "occu": 0.5},
        {"element": "K", "occu": 0.5},
    ]


def _text_number(document: dict) -> None:
    document["force_constants"]["force_constants"][0][0][0][0] = "1.0"


def _other_store(document: dict) -> None:
    document["force_constants"] = {"blob_uuid": "x", "store": "data"}


def _no_rows(document: dict) -> None:
    document["force_constants"] = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_supercell, "has no supercell_matrix"),
        (_other_supercell, "are those of 16 atoms, but supercell_matrix"),
        (_disordered, r"structure.sites\[2\] is not one element"),
        (_text_number, "force_constants.elements"),
        (_other_store, "load=True"),
        (_no_rows, "without store_force_constants"),
    ],
)
def test_what_is_wrong_with_a_document_is_said(
    phonon, tmp_path: Path, change, message: str
) -> None:
    document = to_document(phonon)
    change(document)
    path = tmp_path / "doc.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataFormatError, match=message) as error:
        read_phonon(path)
    assert str(error.value).startswith(str(path))


def test_bare_force_constants_are_one_source_that_lacks_its_cells(
    phonon, tmp_path: Path
) -> None:
    path = tmp_path / "mp-1-force_constants.json"
    rows = to_document(phonon)["force_constants"]["force_constants"]
    path.write_text(json.dumps(rows))
    assert list_entries(path) == [None]
    with pytest.raises(DataFormatError, match="a list or value without force_con"):
        read_phonon(path)


def test_magnetic_moments_lower_the_symmetry_as_they_did_in_the_calculation(
    phonon, tmp_path: Path
) -> None:
    document = to_document(phonon)
    document["primitive_matrix"] = np.eye(3).tolist()
    phonon.produce_force_constants(calculate_full_force_constants=True)
    document["force_constants"] = phonon.force_constants.tolist()
    for number, site in enumerate(document["structure"]["sites"]):
        site["properties"]["magmom"] = float(number)
    document["born"] = None
    (tmp_path / "a.json").write_text(json.dumps(document))
    record = read_phonon(tmp_path / "a.json")
    np.testing.assert_array_equal(record.cells.magnetic_moments, range(8))
