"""Trainings of SevenNet networks: resumed to the bit, exported for SevenNet itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from ase.build import bulk

from pft_lightning.adaptation import LoRA
from pft_lightning.adaptation.mixing import mix
from pft_lightning.backends.calculator import Calculator
from pft_lightning.backends.registry import load_model


pytest.importorskip("sevenn", reason="SevenNet is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of SevenNet, e3nn, torch

sys.path.insert(0, str(Path(__file__).parent))

from adapted import randomise  # noqa: E402
from exporting import (  # noqa: E402
    exported,
    finish_run,
    model_of,
    predict_elsewhere,
    relative_errors,
)
from sevennet_models import MODALITIES, config_of, write_checkpoint  # noqa: E402


NUMBERS = (3, 8, 9, 11, 12, 14, 17)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    shifts = [-float(z) for z in NUMBERS]
    options = MODALITIES | {"shift": [shifts, shifts], "scale": [1.0] * len(NUMBERS)}
    path = tmp_path_factory.mktemp("sevennet") / "base.pth"
    return write_checkpoint(path, config_of(NUMBERS, **options))


@pytest.fixture(scope="module")
def run(world, base) -> Path:
    return finish_run(world, base.parent / "run", base, "model.head=PBE")


@pytest.fixture(scope="module")
def cut(world, base) -> Path:
    """The same run, stopped after its first step and started again."""
    folder = base.parent / "cut"
    for options in (("trainer.max_steps=1",), ("trainer.max_steps=2", "resume=true")):
        finish_run(world, folder, base, "model.head=PBE", *options)
    return folder


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(run, cut):
    expected, found = (model_of(each).state_dict() for each in (run, cut))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_exported_files_predict_the_same_in_sevennet(run, base, tmp_path):
    """In a process that knows nothing of us; of the modality that was trained."""
    kinds = ("ema", "raw")
    files = [
        exported(tmp_path / f"{k}.pth", f"run={run}", f"weights={k}") for k in kinds
    ]
    files.append(exported(tmp_path / "mix.pth", f"run={run}", "mix=0.25"))
    models = {kind: model_of(run, kind) for kind in kinds}
    start = load_model(base, dtype="float32", head="PBE")
    models["mix"] = mix(start, models["ema"], 0.25)
    jobs = [("sevennet_calculator", file, "PBE") for file in files]
    results = predict_elsewhere(tmp_path, jobs)
    for (kind, model), file, found in zip(models.items(), files, results, strict=True):
        again = load_model(file, head="PBE").state_dict()
        assert all(torch.equal(again[n], v) for n, v in model.state_dict().items())
        energy, forces = relative_errors(model, found)
        # Float32 in another order of sums.
        assert energy < 1e-5, kind
        assert forces < 1e-5, kind


def test_the_card_of_an_exported_file_says_how_it_is_opened(run, tmp_path):
    exported(tmp_path / "new.pth", f"run={run}")
    card = next(tmp_path.glob("*.md")).read_text()
    assert 'SevenNetCalculator("new.pth", modal="PBE")' in card


def test_a_published_model_that_was_adapted_opens_in_sevennet(tmp_path):
    """Its products hold constants that a plain copy would write as weights too."""
    from sevenn.calculator import SevenNetCalculator

    model = load_model("7net-0")
    LoRA(rank=1).apply(model)
    randomise(model)
    model.save(tmp_path / "merged.pth")
    crystal = bulk("NaCl", "rocksalt", 5.6)
    crystal.rattle(0.05, seed=0)
    with torch.random.fork_rng():
        theirs = SevenNetCalculator(str(tmp_path / "merged.pth"), device="cpu")
    found = []
    for calculator in (Calculator(model), theirs):
        crystal.calc = calculator
        found.append(crystal.get_forces())
    assert found[0] == pytest.approx(found[1], abs=1e-5)  # single precision
