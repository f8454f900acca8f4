"""Exported Nequix files, in Nequix itself where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from pft_lightning.adaptation.mixing import mix
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import BackendUnavailableError


try:
    from pft_lightning.backends.nequix import files as nequix_files
except (ImportError, BackendUnavailableError) as error:
    pytest.skip(f"no e3nn for Nequix: {error}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of Nequix, JAX, torch

sys.path.insert(0, str(Path(__file__).parent))

from exporting import (  # noqa: E402
    exported,
    finish_run,
    model_of,
    predict_elsewhere,
    relative_errors,
)
from nequix_models import CONFIG  # noqa: E402


needs_nequix = pytest.mark.skipif(
    not all(importlib.util.find_spec(n) for n in ("nequix", "jax", "e3nn_jax")),
    reason="Nequix itself, which imports JAX, is not installed here",
)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("nequix_run")
    numbers = [3, 8, 9, 11, 12, 14, 17]
    config = {
        **CONFIG,
        "atomic_numbers": numbers,
        "atom_energies": {str(z): -float(z) for z in numbers},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nequix_files.build(config, folder / "base.pt")
    nequix_files.write(folder / "base.pt", config, network)
    return finish_run(world, folder / "run", folder / "base.pt", "model.dtype=float32")


@pytest.fixture(scope="module")
def files(run, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nequix_files")
    return {
        name: exported(folder / name, f"run={run}", f"weights={name.split('.')[0]}")
        for name in ("ema.pt", "ema.nqx", "raw.pt")
    }


@pytest.mark.parametrize("name", ["ema.pt", "ema.nqx", "raw.pt"])
def test_both_forms_hold_the_weights_of_the_run(run, files, name):
    expected = model_of(run, name.split(".")[0]).state_dict()
    found = load_model(files[name]).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], value) for n, value in expected.items())


def test_average_and_raw_weights_differ(files):
    average, raw = (load_model(files[n]).state_dict() for n in ("ema.pt", "raw.pt"))
    assert any(not torch.equal(average[n], raw[n]) for n in average)


def test_a_run_in_double_precision_is_rounded_in_the_form_of_jax(files, tmp_path):
    """And accepted: it holds nothing longer."""
    out = exported(
        tmp_path / "a.nqx", f"model.checkpoint={files['ema.pt']}", "model.dtype=float64"
    )
    assert load_model(out).dtype == torch.float32


@pytest.mark.parametrize("ending", [".pt", ".nqx"])
def test_a_mix_is_written_in_both_forms(run, tmp_path, ending):
    out = exported(tmp_path / f"a{ending}", f"run={run}", "mix=0.25")
    base = load_model(run.parent / "base.pt", dtype="float32")
    expected = mix(base, model_of(run), 0.25).state_dict()
    found = load_model(out).state_dict()
    assert all(torch.equal(found[n], value) for n, value in expected.items())


@needs_nequix
def test_exported_files_predict_the_same_in_nequix(run, files, tmp_path):
    names = ("ema.pt", "ema.nqx", "raw.pt")
    jobs = [("nequix_calculator", files[name], "float32") for name in names]
    found = predict_elsewhere(tmp_path, jobs)
    for name, numbers in zip(names, found, strict=True):
        energy, forces = relative_errors(model_of(run, name.split(".")[0]), numbers)
        # Float32 in two frameworks: sums of some hundred terms in another order, each
        # rounded at 1.2e-7; up to 1.1e-6 was seen in energies, by machine.
        assert energy < 1e-5, name
        assert forces < 1e-5, name
