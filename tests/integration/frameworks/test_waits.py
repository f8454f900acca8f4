"""A training step lets nobody wait for a GPU; seen on the CPU, see benchmarks/gpu."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import lightning
import pytest
import torch

from pft_lightning import HessianLoss, PhononDataModule, PhononFineTuning, keys
from pft_lightning.backends.registry import load_model
from pft_lightning.callbacks import RampedEMA, Throughput
from pft_lightning.data.settings import PhononSource, UpstreamSource
from pft_lightning.errors import BackendUnavailableError
from pft_lightning.physics.probes import GaussianProbe
from pft_lightning.testing import PairPotential


BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "gpu" / "waits.py"
NUMBERS = (3, 8, 9, 11, 12, 14, 17)


@pytest.fixture(scope="module")
def count_waits():
    spec = importlib.util.spec_from_file_location("gpu_waits", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.CountWaits


def write_pair(folder: Path, world) -> Path:
    PairPotential(4.0, NUMBERS).save(folder / "base.pair")
    return folder / "base.pair"


def write_mace(folder: Path, world) -> Path:
    pytest.importorskip("mace", reason="mace is not installed here")
    from models import build_mace

    network = build_mace("heads", atomic_numbers=NUMBERS, r_max=4.0)
    torch.save(network, folder / "base.model")
    return folder / "base.model"


def write_nequip(folder: Path, world) -> Path:
    pytest.importorskip("nequip", reason="nequip is not installed here")
    from nequip_models import write_base

    return write_base(folder / "base.ckpt", world.upstream_train, NUMBERS)


def write_nequix(folder: Path, world) -> Path:
    try:
        from pft_lightning.backends.nequix import files
    except (ImportError, BackendUnavailableError) as error:
        pytest.skip(f"no e3nn for Nequix: {error}")
    from nequix_models import CONFIG

    config = {
        **CONFIG,
        "atomic_numbers": list(NUMBERS),
        "atom_energies": {str(number): -1.0 for number in NUMBERS},
    }
    path = folder / "base.pt"
    files.write(path, config, files.build(config, path))
    return path


@pytest.fixture(params=[write_pair, write_mace, write_nequip, write_nequix])
def module(request, tmp_path, world) -> PhononFineTuning:
    path = request.param(tmp_path, world)
    head = "Default" if request.param is write_mace else None
    return PhononFineTuning(load_model(path, head=head))


def train(module, world, *callbacks, **options) -> None:
    data = PhononDataModule(
        PhononSource(world.phonons_train, world.phonons_val, batch_size=1),
        UpstreamSource(world.upstream_train, world.upstream_val, batch_size=2),
        mode="joint",
        cache_dir=world.base.parent / "cache",
        **options,
    )
    trainer = lightning.Trainer(
        callbacks=[HessianLoss(GaussianProbe(2)), *callbacks],
        logger=False,
        enable_checkpointing=False,
        inference_mode=False,
        use_distributed_sampler=False,
        max_steps=4,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        gradient_clip_val=100.0,
        deterministic=True,
    )
    trainer.fit(module, data)


@pytest.fixture(autouse=True)
def set_back(monkeypatch):
    """What ``deterministic=True`` sets."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    yield
    torch.use_deterministic_algorithms(False)


class Batches(lightning.Callback):
    """Keep the batches of a training."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append(batch)


@pytest.mark.filterwarnings("ignore")
def test_no_line_of_a_training_step_asks_the_device(module, world, count_waits):
    counter, batches = count_waits(first=1, steps=2), Batches()
    train(module, world, RampedEMA(), Throughput(), counter, batches)
    assert dict(counter.waits.found) == {}
    assert len(batches.seen) == 4
    for step, batch in enumerate(batches.seen):
        for structures in batch.values():
            assert structures[keys.ARRANGEMENT] == module.model.arrangement()
        draws = HessianLoss(GaussianProbe(2)).draws
        assert batch[keys.PHONON][keys.DRAW] == [draws.label(step)]


@pytest.mark.filterwarnings("ignore")
def test_nor_does_it_where_nothing_is_compiled(
    tmp_path, world, count_waits, not_compiled
):
    path = write_nequix(tmp_path, world)
    counter = count_waits(first=1, steps=2)
    train(PhononFineTuning(load_model(path)), world, counter)
    assert dict(counter.waits.found) == {}


@pytest.mark.filterwarnings("ignore")
def test_workers_leave_no_trace_in_the_weights(tmp_path, world):
    found = []
    for num_workers in (0, 2):
        module = PhononFineTuning(load_model(write_pair(tmp_path, world)))
        train(module, world, RampedEMA(), num_workers=num_workers)
        found.append(module.state_dict())
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name
