"""Functionals behind a base model and behind force constants."""

from __future__ import annotations

import shutil
import warnings
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from ase.calculators.calculator import BaseCalculator
from omegaconf import OmegaConf

from pft_lightning.backends.base import EnergyModel
from pft_lightning.json_files import write_json
from pft_lightning.runs.functionals import (
    compare_functionals,
    find_functionals,
    warn_of_difference,
)


def found(checkpoint, phonons, *, head=None, data=(), model=None, phonon=None):
    config = OmegaConf.create(
        {
            "functional": {"model": model, "phonons": phonon},
            "model": {"checkpoint": str(checkpoint)},
            "data": {"phonons": {"train": phonons}},
        }
    )
    return find_functionals(config, SimpleNamespace(head=head, training_data=data))


@pytest.fixture
def phonons(world, tmp_path):
    """One file in a folder whose name says nothing."""
    folder = tmp_path / "set"
    folder.mkdir()
    source = sorted(world.phonons_train.iterdir())[0]
    shutil.copy(source, folder / source.name)
    return folder


def test_options_say_it_and_win(phonons) -> None:
    said = found("7net-0", str(phonons), model="r2SCAN", phonon="PBEsol")
    assert [said[what].name for what in ("model", "phonons")] == ["r2SCAN", "PBEsol"]
    assert said["model"].stated_by == "functional.model"


@pytest.mark.parametrize(
    ("name", "head", "data", "functional"),
    [
        ("7net-0", None, (), "PBE(+U)"),
        ("medium-omat-0", None, (), "PBE(+U)"),
        ("mace-matpes-r2scan-0", None, (), "r2SCAN"),
        ("mh-1", "matpes_r2scan", (), "r2SCAN"),
        ("mh-1", "omol", (), None),
        ("7net-mf-0", "R2SCAN", (), "r2SCAN"),
        ("base.pt", None, ("data/mptrj-gga-ggapu",), "PBE(+U)"),
        ("base.pt", None, ("mine",), None),
    ],
)
def test_models_say_it_by_name_head_or_training_data(
    phonons, name, head, data, functional
) -> None:
    told = found(name, None, head=head, data=data).get("model")
    assert (told and told.name) == functional


def test_a_model_card_says_it(phonons, tmp_path) -> None:
    model = tmp_path / "tuned.pt"
    model.write_bytes(b"x")
    assert "model" not in found(model, None)
    card = {
        "format": "pft_lightning.provenance",
        "functionals": {"model": {"name": "PBE", "stated_by": "somebody"}},
    }
    write_json(tmp_path / "tuned.pt.json", card)
    assert found(model, None)["model"].name == "PBE"


@pytest.mark.parametrize(
    ("text", "functional"),
    [
        ("ENCUT = 520\n GGA = PS ! solids\n", "PBEsol"),
        ("gga=pe\n", "PBE"),
        ("GGA = PE\nMETAGGA = R2SCAN\n", "r2SCAN"),
        ("#GGA = PS\n", None),
        ("GGA = XX\n", None),
        ("ENCUT = 500 ; METAGGA = R2SCAN ; GGA = PE\n", "r2SCAN"),
        ("ENCUT = 500 # GGA = PS ; GGA = RP\n", None),
        ("ENCUT = 500 ; GGA = PS!; GGA = PE\n", "PBEsol"),
        ("METAGGA = SCAN\n", "SCAN"),
        ("GGA = PE\nMETAGGA = --\n", "PBE"),
        ("GGA = PE\nMETAGGA = NONE\nLHFCALC = T\nHFSCREEN = 0.2\n", "HSE06"),
        ("GGA = PE\nLHFCALC = .TRUE.\nHFSCREEN = 0.2\n", "HSE06"),
        ("LHFCALC = T ; HFSCREEN = 0.2 ; AEXX = 0.25\n", "HSE06"),
        ("GGA = PE\nLHFCALC = .True.\n", "PBE0"),
        ("GGA = PE\nLHFCALC = .FALSE.\n", "PBE"),
        ("GGA = PE\nLHFCALC = .TRUE.\nHFSCREEN = 0.4\n", None),
        ("GGA = PE\nLHFCALC = .TRUE.\nAEXX = 0.1\n", None),
        ("GGA = B3\nLHFCALC = .TRUE.\n", None),
    ],
)
def test_an_incar_beside_the_force_constants_says_it(phonons, text, functional) -> None:
    (phonons / "INCAR").write_text(text)
    told = found("base.pt", str(phonons)).get("phonons")
    assert (told and told.name) == functional
    assert told is None or told.stated_by == "set/INCAR"


def test_names_say_it_where_they_agree(phonons, tmp_path) -> None:
    one, other = tmp_path / "phonondb_pbesol", tmp_path / "Si-pbe"
    for folder in (one, other):
        shutil.copytree(phonons, folder / "train")
    assert "phonons" not in found("base.pt", str(phonons))
    said = found("base.pt", str(one / "train"))["phonons"]
    assert said.name == "PBEsol"
    assert said.stated_by == "name of phonondb_pbesol"  # cards are handed on
    assert found("base.pt", [str(other / "train")])["phonons"].name == "PBE"
    assert "phonons" not in found("base.pt", [str(one), str(other)])
    assert "phonons" not in found("base.pt", [str(one), str(phonons)])


@pytest.mark.parametrize(
    ("name", "functional"),
    [
        ("set_PBE_sol", "PBEsol"),
        ("Si-pbe-sol.v2", "PBEsol"),
        ("conv_scan", None),
        ("lattice-scan", None),
        ("lattice-scan_r2scan", "r2SCAN"),
        ("pbe_solids", "PBE"),
        ("PBE0", "PBE0"),
    ],
)
def test_words_of_names_are_those_of_functionals(
    phonons, tmp_path, name, functional
) -> None:
    shutil.copytree(phonons, tmp_path / name / "train")
    told = found("base.pt", str(tmp_path / name / "train")).get("phonons")
    assert (told and told.name) == functional
    model = tmp_path / f"{name}.model"
    model.write_bytes(b"x")
    told = found(str(model), None).get("model")
    assert (told and told.name) == functional


def test_a_difference_is_named_with_what_says_it(phonons) -> None:
    with pytest.warns(
        UserWarning, match=r"of PBE\(\+U\) \(foundation model 7net-0\), "
    ):
        warn_of_difference(found("7net-0", None, phonon="PBEsol"))


@pytest.mark.parametrize("phonon", ["PBE", "pbe+U", None])
def test_nothing_is_said_where_they_agree_or_one_is_unknown(phonon) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of_difference(found("7net-0", None, phonon=phonon))
    assert not said


def compared(
    phonons,
    *,
    head="PBE",
    reference=None,
    task="compare",
    relax=False,
    run=None,
    checkpoint="tuned.pt",
    **stated,
):
    """Functionals of an evaluation of one file beside one that names its own."""
    config = OmegaConf.create(
        {
            "task": task,
            "protocol": {"relax": relax},
            "run": run,
            "functional": {"model": None, "phonons": None, **stated},
            "label": "tuned",
            "model": {"checkpoint": str(checkpoint)},
            "base": None,
            "compare": {
                "foundation": {"checkpoint": "7net-0"},
                "other": {"calculator": "mine:make"},
            },
            "phonons": phonons,
            "reference": reference,
        }
    )
    models = {
        "foundation": Mock(spec=EnergyModel, head=None, training_data=()),
        "other": Mock(spec=BaseCalculator),
        "tuned": Mock(spec=EnergyModel, head=head, training_data=()),
    }
    return compare_functionals(config, models)


def test_an_evaluation_names_the_potentials_of_another_functional(tmp_path) -> None:
    with pytest.warns(
        UserWarning,
        match=r"foundation is of PBE\(\+U\) \(foundation model 7net-0\), and what",
    ):
        said = compared(str(tmp_path / "val-pbesol"), head="pbesol_head")
    assert said["differ"] == ["foundation"]
    assert said["phonons"]["name"] == said["models"]["tuned"]["name"] == "PBEsol"
    assert "other" not in said["models"]  # a calculator says nothing


def test_an_evaluation_takes_the_functional_of_its_reference(tmp_path) -> None:
    table = str(tmp_path / "kappas_phononDB_PBE_noNAC.json.gz")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert compared(None, reference=table)["differ"] == []
        assert compared("mine", head=None) == {}
    assert not caught


def test_an_option_says_the_functional_of_an_evaluated_potential(tmp_path) -> None:
    with pytest.warns(UserWarning, match=r"tuned is of LDA \(functional.model\)"):
        said = compared(str(tmp_path / "PBE"), model="LDA")
    assert said["differ"] == ["tuned"]


@pytest.mark.parametrize(
    ("task", "relax", "advised"),
    [
        ("compare", False, True),
        ("trade_off", False, True),
        ("compare", True, False),
        ("compare", "atoms", True),
        ("conductivity", False, False),
    ],
)
def test_relaxed_cells_are_advised_where_that_can_be_done(
    tmp_path, task, relax, advised
) -> None:
    with pytest.warns(UserWarning, match="Functionals differ") as said:
        compared(str(tmp_path / "PBE"), model="LDA", task=task, relax=relax)
    assert ("protocol=mdr" in str(said[0].message)) == advised


@pytest.mark.parametrize("task", ["force_constants", "measured"])
def test_nothing_is_said_where_no_dft_is_compared_with(tmp_path, task) -> None:
    assert compared(str(tmp_path / "PBE"), model="LDA", task=task) == {}


def test_the_summary_of_a_run_says_the_functional_of_what_it_wrote(tmp_path) -> None:
    summary = {"model": "model.pt", "functionals": {"model": {"name": "r2SCAN"}}}
    write_json(tmp_path / "summary.json", summary)
    for name in ("model.pt", "other.pt"):
        (tmp_path / name).write_bytes(b"x")
    dft = str(tmp_path / "PBE")
    stated_by = f"{tmp_path.name}/summary.json"
    for given in ({"checkpoint": tmp_path / "model.pt"}, {"run": str(tmp_path)}):
        with pytest.warns(UserWarning, match=f"tuned is of r2SCAN .{stated_by}."):
            compared(dft, head=None, **given)
    assert (
        "tuned"
        not in compared(dft, head=None, checkpoint=tmp_path / "other.pt")["models"]
    )


def test_potentials_of_one_functional_are_named_together(tmp_path) -> None:
    both = r"foundation and tuned are of PBE\(\+U\) \(foundation model 7net-0\), and"
    with pytest.warns(UserWarning, match=both):
        found = compared(str(tmp_path / "val-pbesol"), head=None, checkpoint="7net-0")
    assert found["differ"] == ["foundation", "tuned"]
