from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import Command
from elastic_crystals import label_crystals, write_crystals
from measured_values import write_measured
from third_order_records import add_third_order

from pft_lightning.data.store.building import build_store
from tests.conftest import CUTOFF, true_potential


PLUGINS = Path(__file__).parent / "plugins"

HERE = Path(__file__).parent
for folder in (HERE, HERE / "frameworks", HERE.parent / "backends"):
    sys.path.insert(0, str(folder))


def arguments(world, run, *overrides: str) -> list[str]:
    """A short training on the tiny world, deterministic to the last bit."""
    return [
        f"model.checkpoint={world.base}",
        "model.dtype=float64",
        f"data.phonons.train={world.phonons_train}",
        f"data.phonons.val={world.phonons_val}",
        "data.phonons.batch_size=2",
        f"data.upstream.train={world.upstream_train}",
        f"data.upstream.val={world.upstream_val}",
        "data.upstream.batch_size=4",
        f"data.cache_dir={world.base.parent / 'cache'}",
        "trainer.accelerator=cpu",
        "trainer.max_steps=8",
        "++trainer.enable_progress_bar=false",
        "logger=none",
        f"paths.run={run}",
        *overrides,
    ]


def start_pft_train(*overrides: str) -> Command:
    """Start `pft-train` in a process that finds the plugins of the tests."""
    found = [str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return Command(
        "pft-train",
        *overrides,
        environment={"PYTHONPATH": os.pathsep.join(found)},
        merged=True,
        n_processes=2 if "trainer.devices=2" in overrides else 1,
    )


@pytest.fixture
def pft_train(world):
    """Start a short training in a process of its own; give the running process."""

    def start(run: Path, *overrides: str) -> Command:
        return start_pft_train(
            *arguments(world, run, f"hydra.run.dir={run}", *overrides)
        )

    return start


@pytest.fixture(scope="session")
def third_order_store(world, make_once) -> Path:
    """Store of the training crystals, with third order of three of four."""

    def write(folder: Path) -> dict[str, Path]:
        with pytest.MonkeyPatch.context() as patch:
            add_third_order(patch, true_potential())
            store = folder / "third.store"
            build_store(world.phonons_train, store, cutoff=CUTOFF, progress=False)
        return {"store": store}

    return make_once("third_order", write)["store"]


@pytest.fixture(scope="session")
def elastic_crystals(make_once) -> Path:
    """Crystals with elastic constants, moduli, or both."""

    def write(folder: Path) -> dict[str, Path]:
        write_crystals(folder / "elastic.xyz", label_crystals())
        return {"crystals": folder / "elastic.xyz"}

    return make_once("elastic", write)["crystals"]


@pytest.fixture(scope="session")
def measured_options(make_once) -> tuple[str, ...]:
    """Options of a training on measured values: four items, of two quantities."""

    def write(folder: Path) -> dict[str, Path]:
        write_measured(folder)
        return {"folder": folder}

    folder = make_once("measured", write)["folder"]
    return (
        *(f"data.measured.{name}={folder}" for name in ("train", "val", "structures")),
        "data.measured.min_length=5",
        "data.measured.mesh=12",
    )


@pytest.fixture
def pft_train_mace(world):
    """The same from a file of mace_run_train."""
    from mace_runs import common

    def start(path: Path, run: Path, *overrides: str) -> Command:
        return start_pft_train(
            *common(world, path, run), f"hydra.run.dir={run}", *overrides
        )

    return start


@pytest.fixture(scope="session")
def compose(world):
    """Compose the configuration of `pft-train` as the command line does."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module

    def composed(run: Path, *overrides: str):
        with initialize_config_module("pft_lightning.conf", version_base="1.3"):
            return hydra_compose("train", overrides=arguments(world, run, *overrides))

    return composed


@pytest.fixture
def write_options(world, tmp_path):
    """Write a file for mace_run_train."""
    from mace_runs import OPTIONS

    def write(**options: object) -> Path:
        frames = {
            "train_file": str(world.upstream_train),
            "valid_file": str(world.upstream_val),
        }
        path = tmp_path / "run.yaml"
        content = {**OPTIONS, **frames, **options}
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v != ""}))
        return path

    return write


@pytest.fixture(scope="session", params=["mace", "nequip"])
def backend_base(request, tmp_path_factory, world) -> Path:
    """Random MACE or NequIP model, whichever is installed, for the crystals."""
    name = request.param
    pytest.importorskip(name, reason=f"{name} is not installed here")
    folder = tmp_path_factory.mktemp(f"base_{name}")
    numbers = (3, 8, 9, 11, 12, 14, 17)
    if name == "mace":
        from models import build_mace

        path = folder / "base.model"
        torch.save(build_mace("scale_shift", atomic_numbers=numbers), path)
        return path
    from nequip_models import write_base

    return write_base(folder / "base.ckpt", world.upstream_train, numbers)
