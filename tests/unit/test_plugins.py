"""A package of somebody else brings a backend, by its metadata alone."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pft_lightning.backends import registry
from pft_lightning.errors import (
    BackendUnavailableError,
    CheckpointError,
    ConfigError,
)
from pft_lightning.option_types import Options
from pft_lightning.options import schema
from pft_lightning.options.check import check_options
from pft_lightning.testing import PairPotential, check_backend_conformance


PLUGIN = """
from pft_lightning.backends.registry import Backend

BACKEND = Backend(
    name="tiny", module="pft_tiny.model", kind="tiny potential", endings=(".tiny",)
)
NOT_ONE = "tiny"
OTHER_NAME = Backend(name="other", module="pft_tiny.model", kind="x", endings=(".x",))
NO_FILES = Backend(name="tiny", module="pft_tiny.model", kind="tiny potential")
DOTLESS = Backend(name="tiny", module="pft_tiny.model", kind="x", endings=("tiny",))
FAILING = Backend(
    name="tiny", module="pft_tiny.model", kind="x", recognise=lambda content: 1 / 0
)
NO_LIBRARY = Backend(
    name="tiny", module="pft_tiny.model", kind="x", endings=(".tiny",),
    library="library_that_is_not_there", extra="all",
)
NO_MODULE = Backend(name="tiny", module="pft_tiny.gone", kind="x", endings=(".tiny",))
"""

MODEL = """
import torch

from pft_lightning.testing import PairPotential


class TinyPotential(PairPotential):
    name = "tiny"
    file_suffix = ".tiny"


class Unreadable(TinyPotential):
    file_suffix = ".pt"


def load(path, *, dtype, device, head, trust):
    text = path.read_text()
    if text == "nothing":
        return None
    if text == "unreadable":
        return Unreadable(4.0, [11])
    return TinyPotential(float(text), [11, 17]).to(device=device, dtype=dtype)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package with an entry point where Python finds it."""
    site = tmp_path / "site"

    def install(*points: str, package: str = "pft-tiny") -> Path:
        module = site / "pft_tiny"
        module.mkdir(parents=True, exist_ok=True)
        (module / "__init__.py").write_text(PLUGIN)
        (module / "model.py").write_text(MODEL)
        (module / "broken.py").write_text("1 / 0")
        info = site / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        lines = ["[pft_lightning.backends]", *points]
        (info / "entry_points.txt").write_text("\n".join(lines))
        return site

    monkeypatch.syspath_prepend(site)
    yield install
    for name in [n for n in sys.modules if n.partition(".")[0] == "pft_tiny"]:
        del sys.modules[name]


@pytest.fixture
def tiny_file(tmp_path) -> Path:
    path = tmp_path / "a.tiny"
    path.write_text("4.5")
    return path


@pytest.fixture
def pair_file(tmp_path) -> Path:
    PairPotential(4.0, [11, 17]).save(tmp_path / "a.pair")
    return tmp_path / "a.pair"


def test_its_files_are_loaded_by_their_ending_and_by_its_name(install, tiny_file):
    install("tiny = pft_tiny:BACKEND")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = registry.load_model(tiny_file, dtype="float64")
        assert (model.name, model.cutoff) == ("tiny", 4.5)
        assert registry.load_model(tiny_file, backend="tiny").name == "tiny"


def test_files_of_others_are_told_apart(install, tiny_file, pair_file):
    install("tiny = pft_tiny:BACKEND")
    assert registry.load_model(pair_file).name == "pair"
    with pytest.raises(
        CheckpointError, match="is a tiny potential, but backend='pair'"
    ):
        registry.load_model(tiny_file, backend="pair")
    with pytest.raises(
        CheckpointError, match="is a pair potential, but backend='tiny'"
    ):
        registry.load_model(pair_file, backend="tiny")
    tiny_file.with_suffix(".txt").write_text("4.5")
    with pytest.raises(CheckpointError, match=r"Known: .*Nequix model, tiny potential"):
        registry.load_model(tiny_file.with_suffix(".txt"))


class Model(Options):
    backend: schema.Backend = None


def test_the_option_takes_its_name(install):
    config = OmegaConf.create({"backend": "tiny"})
    with pytest.raises(ConfigError, match="backend=tiny; expected"):
        check_options(config, Model)
    install("tiny = pft_tiny:BACKEND")
    assert check_options(config, Model).backend == "tiny"
    assert "pft_tiny" not in sys.modules
    assert registry.backend_names() == (
        *("pair", "nequip", "mace", "sevennet", "nequix"),
        "tiny",
    )
    with pytest.raises(ConfigError, match=r"\['mace', .*'tiny'\]"):
        registry.load_model("a.tiny", backend="large")


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ("pft_tiny.broken:BACKEND", "ZeroDivisionError"),
        ("pft_tiny.gone:BACKEND", r"No module named 'pft_tiny\.gone'"),
        ("pft_tiny:GONE", "has no attribute 'GONE'"),
        ("pft_tiny:NOT_ONE", "pft_tiny:NOT_ONE is a str, not a Backend"),
        ("pft_tiny:OTHER_NAME", "its Backend is named 'other'"),
        ("pft_tiny:NO_FILES", "neither endings nor recognise"),
        ("pft_tiny:DOTLESS", r"endings=\('tiny',\) is not"),
    ],
)
def test_one_that_is_broken_is_named_and_breaks_no_other(
    install, tiny_file, pair_file, point, reason
):
    install(f"tiny = {point}")
    unusable = rf"Backend 'tiny' of the package pft-tiny cannot be used: .*{reason}"
    assert registry.load_model(pair_file).name == "pair"
    with (
        pytest.warns(UserWarning, match=rf"{unusable}.*Update pft-tiny.*left out"),
        pytest.raises(CheckpointError, match="not a model file known here"),
    ):
        registry.load_model(tiny_file)
    with pytest.raises(BackendUnavailableError, match=unusable):
        registry.load_model(tiny_file, backend="tiny")


def test_one_that_cannot_tell_its_files_is_passed_over(install, tiny_file, pair_file):
    install("tiny = pft_tiny:FAILING")
    assert registry.load_model(pair_file).name == "pair"
    with (
        pytest.warns(UserWarning, match=r"pft-tiny failed to tell.*ZeroDivisionError"),
        pytest.raises(CheckpointError, match="not a model file known here"),
    ):
        registry.load_model(tiny_file)


def test_what_its_library_lacks_is_installed_from_its_own_package(install, tiny_file):
    install("tiny = pft_tiny:NO_LIBRARY")
    with pytest.raises(
        BackendUnavailableError, match=r'pip install "pft-tiny\[all\]"\.'
    ):
        registry.load_model(tiny_file)


def test_what_fails_in_it_is_said_of_it(install, tiny_file):
    install("tiny = pft_tiny:BACKEND")
    tiny_file.write_text("four")
    with pytest.raises(CheckpointError, match=r"'tiny' of the package pft-tiny failed"):
        registry.load_model(tiny_file)
    tiny_file.write_text("nothing")
    with pytest.raises(BackendUnavailableError, match="gave a NoneType; expected an"):
        registry.load_model(tiny_file)
    # Else a training would end with a potential that cannot be loaded.
    tiny_file.write_text("unreadable")
    with pytest.raises(
        BackendUnavailableError, match=r"saved as \*\.pt, but only \.tiny"
    ):
        registry.load_model(tiny_file)


def test_a_module_that_is_not_there_is_said_of_its_package(install, tiny_file):
    install("tiny = pft_tiny:NO_MODULE")
    with pytest.raises(
        BackendUnavailableError, match=r"the pft-tiny that is installed"
    ):
        registry.load_model(tiny_file)


def test_names_that_are_taken_stay_what_they_are(install, tiny_file, pair_file):
    install("pair = pft_tiny:BACKEND", "tiny = pft_tiny:BACKEND")
    install("tiny = pft_tiny.broken:BACKEND", package="pft-tiny-two")
    assert registry.load_model(pair_file, backend="pair").name == "pair"
    with (
        pytest.warns(UserWarning, match="'pair' of the package pft-tiny cannot.*taken"),
        pytest.warns(UserWarning, match="pft-tiny-two cannot.*the package pft-tiny br"),
    ):
        assert registry.load_model(tiny_file).name == "tiny"


def test_importing_the_package_loads_none(install, tiny_file):
    """Also what the commands import, which knows its name."""
    site = install("tiny = pft_tiny:BACKEND")
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
import pft_lightning, pft_lightning.cli.train
from pft_lightning.options import schema
assert "tiny" in str(schema.Backend.__metadata__[-1].text)
assert "pft_tiny" not in sys.modules
assert pft_lightning.load_model({str(tiny_file)!r}).name == "tiny"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_conformance_is_checked_on_the_device_that_is_named():
    model = PairPotential(4.0, [11, 17])
    with pytest.raises(ConfigError, match="device='meta' is not available"):
        check_backend_conformance(model, device="meta")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    check_backend_conformance(model, device="cuda")
    assert model.device.type == "cuda"
