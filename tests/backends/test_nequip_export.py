"""Exported NequIP files in NequIP's own tools, in processes without this package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from pft_lightning.adaptation.mixing import mix
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import CheckpointError, ConfigError


pytest.importorskip("nequip", reason="NequIP is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of NequIP and torch

sys.path.insert(0, str(Path(__file__).parent))

from exporting import (  # noqa: E402
    exported,
    finish_run,
    model_of,
    predict_elsewhere,
    relative_errors,
)
from nequip_models import write_base  # noqa: E402


@pytest.fixture(scope="module")
def base(world, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("nequip_base") / "base.ckpt"
    return write_base(path, world.upstream_train, (3, 8, 9, 11, 12, 14, 17))


@pytest.fixture(scope="module")
def run(world, base, tmp_path_factory) -> Path:
    """With low-rank adapters, so that writing a file merges them."""
    folder = tmp_path_factory.mktemp("nequip_run")
    lora = ("adaptation=lora", "adaptation.rank=1")
    return finish_run(world, folder, base, "model.dtype=float64", *lora)


def test_exported_files_predict_the_same_in_the_tools_of_nequip(run, base, tmp_path):
    average = exported(tmp_path / "ema.ckpt", f"run={run}")
    raw = exported(tmp_path / "raw.ckpt", f"run={run}", "weights=raw")
    package = exported(tmp_path / "ema.nequip.zip", f"run={run}")
    mixed = exported(tmp_path / "mix.ckpt", f"run={run}", "mix=0.25")
    jobs = [
        ("nequip_calculator", average, "float64"),
        ("nequip_package", average, "float64"),
        ("nequip_calculator", package, "float64"),
        ("nequip_calculator", raw, "float64"),
        ("nequip_calculator", mixed, "float64"),
    ]
    found = predict_elsewhere(tmp_path, jobs)
    ends = load_model(base, dtype="float64"), model_of(run)
    models = [
        *(model_of(run, k) for k in ("ema", "ema", "ema", "raw")),
        mix(*ends, 0.25),
    ]
    for (tool, file, _), model, numbers in zip(jobs, models, found, strict=True):
        errors = relative_errors(model, numbers)
        assert max(errors) < 1e-12, f"{tool} of {file.name}: {errors}"
    assert abs(found[0]["energy"] / found[3]["energy"] - 1) > 1e-6
    assert "nequip-compile ema.nequip.zip" in Path(f"{package}.md").read_text()
    # A package can be written again, with its history, but not become a checkpoint.
    again = exported(tmp_path / "again.nequip.zip", f"model.checkpoint={package}")
    told = json.loads(Path(f"{again}.json").read_text())
    assert told["base_model"]["file"] == "base.ckpt"
    with pytest.raises(ConfigError, match=r"end in \.nequip\.zip"):
        exported(tmp_path / "a.ckpt", f"model.checkpoint={package}")


def test_a_package_without_the_training_data_is_refused_with_the_reason(base, tmp_path):
    content = torch.load(base, weights_only=False)
    data = content["hyper_parameters"]["info_dict"]["data"]
    data["train_file_path"] = str(tmp_path / "gone.xyz")
    torch.save(content, tmp_path / "base.ckpt")
    out = tmp_path / "out" / "a.nequip.zip"
    with pytest.raises(CheckpointError, match=r"gone\.xyz.*must be there"):
        exported(out, f"model.checkpoint={tmp_path / 'base.ckpt'}")
    assert not list(out.parent.iterdir())
    # The checkpoint needs none.
    written = exported(
        tmp_path / "a.ckpt", f"model.checkpoint={tmp_path / 'base.ckpt'}"
    )
    assert load_model(written).dtype == torch.float64


def test_float32_stays_float32(base, tmp_path):
    out = exported(
        tmp_path / "a.ckpt", f"model.checkpoint={base}", "model.dtype=float32"
    )
    job = [("nequip_calculator", out, "float32")]
    (found,) = predict_elsewhere(tmp_path, job)
    # In the dtype of the file: rounding of sums over neighbours in another order.
    errors = relative_errors(load_model(base, dtype="float32"), found)
    assert max(errors) < 1e-6, errors
    assert json.loads(Path(f"{out}.json").read_text())["file"]["dtype"] == "float32"
