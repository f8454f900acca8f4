from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).parent))

from nequix_models import CONFIG, write_model


DAY = Path(__file__).parents[2] / "benchmarks" / "gpu" / "day.py"
pytest.importorskip("nequix", reason="Nequix itself is not installed here")
pytest.importorskip("e3nn", reason="e3nn is not installed here")

# What has nothing to work on here, and what works on a file that is no model.
EXPECTED = {
    "exact_mace": ("failed", "mace.model"),
    "exact_nequip": ("skipped", "models/nequip"),
    "exact_sevennet": ("skipped", "models/sevennet"),
    "conformance_sevennet": ("skipped", "models/sevennet"),
    "conformance_mace": ("failed", "mace.model"),
    "conformance_nequip": ("skipped", "models/nequip"),
    "jax_compiles": ("skipped", "cloudpickle"),
    "cost_jax": ("skipped", "cloudpickle"),
    "out_of_memory": ("skipped", "no limit"),
    "cost_others": ("failed", "mace.model"),
    "openequivariance": ("skipped", "GPUs only"),
}


@pytest.fixture(scope="module")
def pack(world, tmp_path_factory) -> Path:
    """What pack.sh makes, as small as it gets."""
    folder = tmp_path_factory.mktemp("pack")
    for name in ("models", "data"):
        folder.joinpath(name).mkdir()
    numbers = (3, 8, 9, 11, 12, 14, 17)
    options = {
        "atomic_numbers": list(numbers),
        "atom_energies": {str(z): -1.0 for z in numbers},
        "hidden_irreps": "4x0e + 2x1o",
        "lmax": 1,
        "n_layers": 2,
    }
    for suffix in (".pt", ".nqx"):
        write_model(folder / "models" / f"nequix{suffix}", **{**CONFIG, **options})
    folder.joinpath("models", "mace.model").write_bytes(b"no model")
    for name, source in (
        ("train", world.phonons_train),
        ("val", world.phonons_val),
        ("upstream-train.xyz", world.upstream_train),
        ("upstream-val.xyz", world.upstream_val),
    ):
        folder.joinpath("data", name).symlink_to(source)
    return folder


@pytest.fixture(scope="module")
def day(pack, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, str(DAY), str(out), "--pack", str(pack)]
    run = subprocess.run(
        [*command, "--device", "cpu", "--tiny", "--limits", "4", "--seconds", "900"],
        capture_output=True,
        text=True,
        check=False,
        # The user's cache, where the C sources are compiled already.
        env={"XDG_CACHE_HOME": str(Path.home() / ".cache"), **os.environ},
    )
    assert run.returncode == 1, run.stderr  # of the model that is none
    return out


def test_every_check_of_a_visit_ends_as_it_should(day):
    """A failure stops no other check."""
    record = json.loads((day / "gpu.json").read_text())
    log = (day / "day.log").read_text()
    for check in record["checks"]:
        status, reason = EXPECTED.get(check["name"], ("ok", ""))
        assert check["status"] == status, (check["reason"], log[-9000:])
        assert reason in check["reason"]
        assert check["rows"] or status != "ok", check
    found = {r["what"]: r["value"] for c in record["checks"] for r in c["rows"]}
    # One of each: nothing ended well without having looked.
    assert found["hvp, kernels, reverse_over_reverse"] < 1e-13
    assert found["largest difference of weights, deterministic=True"] == 0.0
    assert found["two - one, of the way gone"] < 1e-9
    assert found["hvp 8x2: ours/not compiled"] > 0
