"""Exported MACE files in MACE's own tools, in processes without this package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pft_lightning.adaptation.mixing import mix
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import CheckpointError


pytest.importorskip("mace", reason="MACE is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of MACE, e3nn and TorchScript

sys.path.insert(0, str(Path(__file__).parent))

from exporting import (  # noqa: E402
    exported,
    finish_run,
    model_of,
    predict_elsewhere,
    relative_errors,
)
from models import VARIANTS, build_mace  # noqa: E402


NUMBERS = (3, 8, 9, 11, 12, 14, 17)


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory) -> dict[str, Path]:
    """All weights in float64; low-rank adapters in float32 on a base in float64."""
    folder = tmp_path_factory.mktemp("mace_runs")
    base = folder / "base.model"
    torch.save(build_mace("scale_shift", atomic_numbers=NUMBERS), base)
    lora = ("adaptation=lora", "adaptation.rank=1")
    return {
        "float64": finish_run(world, folder / "a", base, "model.dtype=float64"),
        "float32": finish_run(world, folder / "b", base, "model.dtype=float32", *lora),
    }


@pytest.fixture(scope="module")
def files(runs, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mace_files")
    double, single = (f"run={runs[dtype]}" for dtype in ("float64", "float32"))
    return {
        "ema": exported(folder / "ema.model", double, "weights=ema"),
        "raw": exported(folder / "raw.model", double, "weights=raw"),
        "portable": exported(folder / "ema.safetensors", double),
        "float32": exported(folder / "single.model", single),
        "mix": exported(folder / "mix.model", single, "mix=0.25"),
    }


def test_exported_files_predict_the_same_in_the_tools_of_mace(runs, files, tmp_path):
    average, raw = (model_of(runs["float64"], weights) for weights in ("ema", "raw"))
    # Merged in float32, while these adapters are applied in float64.
    single = model_of(runs["float32"])
    base = load_model(runs["float32"].parent / "base.model", dtype="float32")
    mixed = mix(base, single, 0.25).double()
    single.double()
    cases = [
        ("mace_calculator", "ema", average, (1e-12, 1e-12)),
        ("mace_calculator", "raw", raw, (1e-12, 1e-12)),
        ("mace_create_lammps_model", "ema", average, (1e-12, 1e-12)),
        # It writes forces, here of 0.03 eV/Å, with eight decimals.
        ("mace_eval_configs", "ema", average, (1e-12, 1e-6)),
        ("mace_calculator", "float32", single, (1e-6, 1e-6)),
        ("mace_calculator", "mix", mixed, (1e-12, 1e-12)),
    ]
    jobs = [(tool, files[file], "float64") for tool, file, _, _ in cases]
    found = predict_elsewhere(tmp_path, jobs)
    for (tool, file, model, limits), numbers in zip(cases, found, strict=True):
        errors = relative_errors(model, numbers)
        assert all(e < limit for e, limit in zip(errors, limits, strict=True)), (
            f"{tool} of {file}: relative errors of energy and forces {errors}"
        )
    assert abs(found[0]["energy"] / found[1]["energy"] - 1) > 1e-6


def test_a_portable_file_becomes_the_same_model(files, tmp_path):
    back = exported(tmp_path / "c.model", f"model.checkpoint={files['portable']}")
    expected = load_model(files["ema"]).state_dict()
    for path in (files["portable"], back):
        state = load_model(path).state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[n], value) for n, value in expected.items())
    told = json.loads(Path(f"{back}.json").read_text())
    assert told["base_model"]["file"] == "base.model"
    assert told["converted_from"]["file"] == "ema.safetensors"


# The run above has the other one.
@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"scale_shift"}))
def test_every_architecture_has_a_portable_form(mace_files, variant, tmp_path):
    options = {"head": "Default"} if variant == "heads" else {}
    model = load_model(mace_files[variant], **options)
    model.save(tmp_path / "a.safetensors")
    state = load_model(tmp_path / "a.safetensors", **options).state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[n], v) for n, v in model.state_dict().items())


def test_a_damaged_portable_file_is_named(files, tmp_path):
    whole = files["portable"].read_bytes()
    path = tmp_path / "a.safetensors"
    for length in (12, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            load_model(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="does not describe a network"):
        load_model(path)
    for old, new in ((b"RealAgnosticResidual", b"NoAgnosticResidualXX"),):
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(CheckpointError, match="the MACE installed here lacks"):
            load_model(path)


def test_the_head_in_use_is_told_and_checked(tmp_path):
    base = tmp_path / "base.model"
    torch.save(build_mace("heads", atomic_numbers=NUMBERS), base)
    options = (f"model.checkpoint={base}", "model.head=Default")
    out = exported(tmp_path / "out.model", *options)
    told = json.loads(Path(f"{out}.json").read_text())["file"]
    assert told["head"] == "Default"
    assert told["heads"] == ["pt_head", "Default"]
    assert 'head="Default"' in Path(f"{out}.md").read_text()
