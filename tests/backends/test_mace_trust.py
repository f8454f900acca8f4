"""MACE files are data: what they refer to, and networks that are another than built."""

from __future__ import annotations

import functools
import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from pft_lightning.backends.registry import load_model
from pft_lightning.errors import CheckpointError


pytest.importorskip("mace", reason="MACE is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of MACE, e3nn and TorchScript

sys.path.insert(0, str(Path(__file__).parent))

from models import BASE, build_mace  # noqa: E402


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


GENERATED = {"_code": "def forward(self):\n    pass\n", "_graphmodule_cls_name": "G"}
CALLS = {
    "system": Call(os.system, "touch called"),
    "exec": Call(exec, "open('called', 'w')"),
    "load": Call(torch.hub.load, "owner/name", "model"),
    "partial": functools.partial(os.system, "touch called"),
    "np.load": Call(np.load, "a.npy", None, True),
    "from_file": Call(getattr, type(torch._C._VariableFunctions), "from_file"),
}


def save(path: Path, network: torch.nn.Module, *, is_legacy: bool = False) -> Path:
    torch.save(network, path, _use_new_zipfile_serialization=not is_legacy)
    return path


@pytest.fixture(scope="module")
def template() -> torch.nn.Module:
    return build_mace("scale_shift")


@pytest.fixture
def network(template, monkeypatch) -> torch.nn.Module:
    """One network for all tests, which may give it a note and change numbers."""
    monkeypatch.setattr(template, "note", None, raising=False)
    return template


@pytest.mark.parametrize("name", sorted(CALLS))
def test_nothing_is_called(network, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network.note = {"nested": [CALLS[name]]}
    for is_legacy in (False, True):
        path = save(tmp_path / "a.model", network, is_legacy=is_legacy)
        pattern = rf"({name}|persistent_load).*model\.trust=true"
        with pytest.raises(CheckpointError, match=pattern):
            load_model(path)
    assert not (tmp_path / "called").exists()


def test_the_first_pickle_of_an_old_file_is_data_too(network, tmp_path, monkeypatch):
    """torch reads three more pickles before that of the network."""
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "a.model", network, is_legacy=True)
    first = save(tmp_path / "b.model", CALLS["system"], is_legacy=True)
    path.write_bytes(first.read_bytes() + path.read_bytes())
    with pytest.raises(CheckpointError):
        load_model(path)
    assert not (tmp_path / "called").exists()


def test_a_file_in_the_old_format_is_told_how_to_be_saved_anew(network, tmp_path):
    path = save(tmp_path / "a.model", network, is_legacy=True)
    with pytest.raises(
        CheckpointError, match=r"before version 1\.6.*Save it again.*model\.trust=true"
    ):
        load_model(path)
    torch.save(torch.load(path, weights_only=False), tmp_path / "b.model")
    assert load_model(tmp_path / "b.model").cutoff == BASE["r_max"]


def test_generated_source_is_not_run(network, tmp_path, monkeypatch):
    """Of torch.fx, which MACE and e3nn pickle as Python source."""
    monkeypatch.chdir(tmp_path)
    network.note = Call(
        torch.fx.graph_module.reduce_graph_module, GENERATED, "open('called', 'w')"
    )
    load_model(save(tmp_path / "a.model", network))
    assert not (tmp_path / "called").exists()


def test_what_else_a_file_refers_to_needs_trust(network, tmp_path):
    network.note = Fraction(1, 2)
    path = save(tmp_path / "a.model", network)
    with pytest.raises(CheckpointError, match=r"refers to fractions\.Fraction"):
        load_model(path)
    assert load_model(path, trust=True).cutoff == BASE["r_max"]


def test_a_flipped_bit_of_a_portable_file_is_noticed(network, tmp_path):
    load_model(save(tmp_path / "a.model", network)).save(tmp_path / "a.safetensors")
    path = tmp_path / "a.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.safetensors.*checksum"):
        load_model(path)


@pytest.mark.parametrize("module", ["mace.modules.blocks", "mace.core.layers"])
def test_a_file_of_another_version_of_mace_is_refused_by_name(module, tmp_path):
    path = tmp_path / "a.model"
    path.write_bytes(b"\x80\x02c" + f"{module}\nLayer\n".encode() + b")R.")
    pattern = rf"refers to {module}\.Layer, which the MACE .*converter"
    with pytest.raises(CheckpointError, match=pattern):
        load_model(path)


def test_layers_with_different_means_are_refused(network, tmp_path, monkeypatch):
    monkeypatch.setattr(network.interactions[1], "avg_num_neighbors", 9.0)
    pattern = r"interactions\.1\.avg_num_neighbors is 9\.0 in the file and 12\.0"
    with pytest.raises(CheckpointError, match=pattern):
        load_model(save(tmp_path / "a.model", network))


def test_networks_of_kernels_are_refused(network, tmp_path, monkeypatch):
    from mace.modules.wrapper_ops import CuEquivarianceConfig

    config = CuEquivarianceConfig()
    config.enabled = True
    monkeypatch.setattr(network, "cueq_config", config, raising=False)
    with pytest.raises(CheckpointError, match=r"cueq kernels.*convert_cueq_e3nn"):
        load_model(save(tmp_path / "a.model", network))


def test_adapters_that_are_not_merged_are_refused(tmp_path):
    from mace.modules.lora import inject_lora

    network = build_mace("scale_shift")
    with torch.random.fork_rng():
        inject_lora(network, rank=2)
    with pytest.raises(CheckpointError, match=r"not merged.*LoRAO3Linear"):
        load_model(save(tmp_path / "a.model", network))


@pytest.mark.parametrize(
    ("name", "options", "pattern"),
    [
        ("gaussian", {"radial_type": "gaussian"}, "radial_type=gaussian"),
        ("chebyshev", {"radial_type": "chebyshev"}, "radial_type=chebyshev"),
        (
            "charge",
            {
                "embedding_specs": {
                    "total_charge": {
                        "type": "categorical",
                        "per": "graph",
                        "num_classes": 3,
                        "emb_dim": 4,
                    }
                }
            },
            r"takes total_charge as input.*embedding_specs",
        ),
    ],
)
def test_kinds_that_cannot_be_built_again_are_refused(
    name, options, pattern, tmp_path, monkeypatch
):
    import models

    monkeypatch.setitem(models.VARIANTS, name, options)
    with pytest.raises(CheckpointError, match=pattern):
        load_model(save(tmp_path / "a.model", build_mace(name)))


@pytest.mark.parametrize(
    ("attribute", "value", "pattern"),
    [
        ("r_max", torch.tensor(1e9), "r_max=1000000000.*expected"),
        ("num_interactions", torch.tensor(10**6), "num_interactions=1000000"),
        ("atomic_numbers", torch.tensor([11, 14, 999]), "atomic_numbers=.*999"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_built(
    network, attribute, value, pattern, tmp_path, monkeypatch
):
    monkeypatch.setitem(network._buffers, attribute, value)
    with pytest.raises(CheckpointError, match=pattern):
        load_model(save(tmp_path / "a.model", network))


def test_a_higher_degree_than_the_couplings_have_is_refused(
    network, tmp_path, monkeypatch
):
    monkeypatch.setattr(network.spherical_harmonics, "_lmax", 6)
    with pytest.raises(CheckpointError, match="max_ell=6"):
        load_model(save(tmp_path / "a.model", network))
