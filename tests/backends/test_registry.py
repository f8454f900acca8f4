"""Recognising files, and using models, where no backend library is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pft_lightning.backends import registry
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import (
    BackendUnavailableError,
    CheckpointError,
    ConfigError,
)
from pft_lightning.testing import (
    PairPotential,
    build_crystal_batch,
    check_backend_conformance,
)


HERE = Path(__file__).parent


@pytest.fixture
def model() -> PairPotential:
    return PairPotential(4.5, [11, 17])


def test_pair_potential_conforms(model):
    check_backend_conformance(model)


def test_save_and_load(model, tmp_path, rattled):
    with torch.no_grad():
        model.depth *= 1.3
    path = tmp_path / "model.pt"
    model.save(path)
    again = load_model(path)
    assert again.name == "pair"
    assert again.cutoff == model.cutoff
    assert again.atomic_numbers == (11, 17)
    batch = build_crystal_batch([rattled], 4.5)
    assert torch.equal(again.derivatives(batch).forces, model.derivatives(batch).forces)
    single = load_model(path, dtype="float32")
    assert single.dtype == torch.float32
    assert single.derivatives(batch).forces.dtype == torch.float32


def test_importing_the_registry_imports_no_backend():
    code = (
        "import sys, pft_lightning.backends.registry, pft_lightning.backends.base; "
        "print([m for m in ('mace', 'nequip', 'e3nn', 'wandb') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_files_that_are_no_models(tmp_path):
    def refused(path: Path, pattern: str) -> None:
        with pytest.raises(CheckpointError, match=pattern) as caught:
            load_model(path)
        assert path.name in str(caught.value)

    refused(tmp_path / "absent.model", "no such file")
    refused(tmp_path, "is a folder")
    empty = tmp_path / "empty.model"
    empty.touch()
    refused(empty, "is empty")
    text = tmp_path / "text.model"
    text.write_text("hello")
    refused(text, "not a file that torch.save")
    other = tmp_path / "other.pt"
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6"}, other)
    refused(other, "a Lightning checkpoint of another program")
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "hello")
    refused(archive, "zip archive that holds no model")
    pickled = tmp_path / "pickled.pt"
    torch.save(torch.nn.ReLU(), pickled, _use_new_zipfile_serialization=False)
    refused(pickled, r"torch\.nn\.modules\.activation\.ReLU")


def test_truncated_at_any_length(model, tmp_path):
    path = tmp_path / "model.pt"
    model.save(path)
    content = path.read_bytes()
    for length in (1, 3, 10, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"model\.pt"):
            load_model(path)


def test_reading_runs_no_code(tmp_path):
    """A hostile file of no known kind is described, not executed."""

    class Hostile:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",)

    path = tmp_path / "hostile.pt"
    torch.save({"weights": Hostile()}, path)
    with pytest.raises(CheckpointError, match=r"exec"):
        load_model(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("library", ["mace", "nequip", "nequix"])
def test_library_not_installed(library, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    if library == "mace":
        path = HERE / "data" / "mace_e3nn_0.6.0.model"
    elif library == "nequix":
        path = tmp_path / "a.nqx"
        entries = ("hidden_irreps", "radial_polynomial_p", "atom_energies")
        path.write_text(json.dumps(dict.fromkeys(entries)) + "\n")
    else:
        path = tmp_path / "a.ckpt"
        strings = ("hyper_parameters", "info_dict", "training_module")
        torch.save(dict.fromkeys(strings), path)
    with pytest.raises(BackendUnavailableError, match=rf"pft_lightning\[{library}\]"):
        load_model(path)
    with pytest.raises(CheckpointError, match=r"'medium': no such file.*install"):
        load_model("medium")


def test_wrong_options(model, tmp_path):
    path = tmp_path / "model.pt"
    model.save(path)
    with pytest.raises(CheckpointError, match=r"is a pair potential.*backend='mace'"):
        load_model(path, backend="mace")
    names = r"\['mace', 'nequip', 'nequix', 'pair', 'sevennet'\]"
    with pytest.raises(ConfigError, match=f"expected one of {names}"):
        load_model(path, backend="schnet")
    with pytest.raises(ConfigError, match="float16"):
        load_model(path, dtype="float16")
    with pytest.raises(ConfigError, match="no heads"):
        load_model(path, head="Default")
    content = torch.load(path)
    torch.save({**content, "version": 99}, path)
    with pytest.raises(CheckpointError, match=r"99.*Upgrade"):
        load_model(path)


def test_a_flipped_bit_of_the_weights_is_noticed(model, tmp_path):
    """torch reads damaged weights without a word."""
    path = tmp_path / "model.pt"
    model.save(path)
    content = bytearray(path.read_bytes())
    content[content.index(model.depth.detach().numpy().tobytes()) + 6] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pt.*checksum"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", None),
        ("version", "1"),
        ("cutoff", 1e9),
        ("cutoff", float("nan")),
        ("cutoff", "4.5"),
        ("atomic_numbers", []),
        ("atomic_numbers", [11, 999]),
        ("state_dict", {}),
        ("state_dict", [1.0]),
    ],
)
def test_values_of_a_pair_file_are_checked(model, tmp_path, name, value):
    path = tmp_path / "model.pt"
    model.save(path)
    torch.save({**torch.load(path), name: value}, path)
    pattern = "weights" if name == "state_dict" else name
    with pytest.raises(CheckpointError, match=rf"model\.pt.*{pattern}"):
        load_model(path)


def test_weights_that_are_not_finite_are_refused(model, tmp_path):
    with torch.no_grad():
        model.depth[0] = torch.nan
    model.save(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"weight depth holds NaN"):
        load_model(tmp_path / "model.pt")


def test_a_file_of_a_later_mace_is_refused_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(1)}, path, {"format": "mace-neutral", "version": "1.0"})
    with pytest.raises(CheckpointError, match=r"another version of MACE.*MACE 0\.3"):
        load_model(path)


def test_a_library_of_another_version_is_named(monkeypatch):
    def fail(module):
        raise ModuleNotFoundError("No module named 'mace.modules'")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(BackendUnavailableError, match=r"mace\.modules.*\[mace\]"):
        registry.import_backend("mace")


def test_files_that_ask_for_more_than_they_hold(tmp_path):
    bomb = tmp_path / "bomb.model"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(30_000_000))
    with pytest.raises(CheckpointError, match="would become 30000000"):
        load_model(bomb)
    nested = tmp_path / "nested.nqx"
    nested.write_text('{"a":' * 100_000)
    with pytest.raises(CheckpointError, match="not a model file"):
        load_model(nested)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CheckpointError, match="is a pipe"):
        load_model(pipe)


def test_damaged_directory_of_an_archive(model, tmp_path):
    path = tmp_path / "model.pt"
    model.save(path)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(50):
        damaged = bytearray(content)
        damaged[-int(generator.integers(1, 400))] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        try:
            again = load_model(path)
        except CheckpointError:
            continue
        assert torch.equal(again.depth, model.depth)


def test_a_failed_save_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_text("old")

    def fail(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_registry_names_are_those_of_the_models():
    assert {name: entry.name for name, entry in registry.BACKENDS.items()} == {
        name: name for name in ("pair", "nequip", "mace", "sevennet", "nequix")
    }
