"""A stock configuration of ``nequip-train``, plus the lines of docs/nequip.md."""

from __future__ import annotations

import csv
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml


pytest.importorskip("nequip", reason="NequIP is not installed here")

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "nequip.md"
# Where torch stops promising more: sums in another order.
ROUNDING = {"rtol": 1e-10, "atol": 1e-12}

# A process that has never heard of this package.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pft_lightning":
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Blocker())
"""
DEPLOY = """
import ase.io, numpy as np, torch
from nequip.integrations.ase import NequIPCalculator
from nequip.scripts.package import main
main(["build", {checkpoint!r}, {package!r}])
found = {{}}
for name, path in (("checkpoint", {checkpoint!r}), ("package", {package!r})):
    calculator = NequIPCalculator._from_saved_model(
        path, device="cpu", chemical_species_to_atom_type_map=True
    )
    for i, atoms in enumerate(ase.io.read("val.xyz", ":")):
        atoms.calc = calculator
        found[f"{{name}} {{i}}"] = np.append(
            atoms.get_forces(), atoms.get_potential_energy()
        )
np.savez({numbers!r}, **found)
assert "pft_lightning" not in sys.modules
"""


def lines_of_the_page() -> dict:
    """The entry of ``trainer.callbacks`` that the documentation tells users to add."""
    block = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    (entry,) = yaml.safe_load(block)["trainer"]["callbacks"]
    return entry


class Runs:
    """Runs of ``nequip-train`` in one folder, and what they leave."""

    def __init__(self, folder: Path, world) -> None:
        self.folder = folder
        self.data = folder / "data"
        (self.data / "phonons").mkdir(parents=True)
        (self.data / "phonons" / "train").symlink_to(world.phonons_train)
        (self.data / "phonons" / "val").symlink_to(world.phonons_val)
        (self.data / "train.xyz").symlink_to(world.upstream_train)
        (self.data / "val.xyz").symlink_to(world.upstream_val)
        frames = ase.io.read(world.upstream_train, ":12")
        ase.io.write(self.data / "twelve.xyz", frames, format="extxyz")

    def job(
        self,
        name: str,
        *callbacks: dict,
        model=None,
        environment=None,
        exit_code: int = 0,
        **sections,
    ) -> dict:
        """A stock run with further callbacks; ``sections`` are merged into it."""
        config = yaml.safe_load((HERE / "nequip_stock.yaml").read_text())
        config["trainer"]["callbacks"] += callbacks
        if model is not None:
            config["training_module"]["model"] = model
        merge(config, sections)
        run = self.folder / name
        run.mkdir(exist_ok=True)
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        return {
            "name": name,
            "exit_code": exit_code,
            "cwd": str(self.data),
            "log": str(run / "output.txt"),
            "environment": environment or {},
            "arguments": ["-cp", str(run), "-cn", "config", f"hydra.run.dir={run}"],
        }

    def start(self, *groups: list[dict]) -> None:
        """Run groups of jobs one after the other; those of a group at the same time."""
        result = subprocess.run(
            [sys.executable, HERE / "nequip_driver.py"],
            input=json.dumps(groups),
            capture_output=True,
            text=True,
            check=True,
            env=os.environ
            | {
                "PYTHONPATH": str(HERE / "plugins"),
                "OMP_NUM_THREADS": "1",
                "XDG_CACHE_HOME": str(self.folder / "cache"),
            },
        )
        found = json.loads(result.stdout.splitlines()[-1])
        for group, codes in zip(groups, found, strict=True):
            for job, code in zip(group, codes, strict=True):
                assert code == job["exit_code"], self.output(job["name"])[-3000:]

    def output(self, name: str) -> str:
        return (self.folder / name / "output.txt").read_text()

    def checkpoint(self, name: str) -> Path:
        return self.folder / name / "last.ckpt"

    def state(self, name: str) -> dict:
        return torch.load(self.checkpoint(name), weights_only=False)

    def logged(self, name: str, metric: str) -> list[float]:
        with open(self.folder / name / "logs" / "metrics.csv") as file:
            return [float(row[metric]) for row in csv.DictReader(file) if row[metric]]


def merge(config: dict, changes: dict) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            merge(config[key], value)
        else:
            config[key] = value


def epochs(n: int) -> dict:
    return {"max_epochs": n}


def started_from(path: Path, loader: str = "ModelFromCheckpoint") -> dict:
    argument = "checkpoint_path" if loader == "ModelFromCheckpoint" else "package_path"
    return {"_target_": f"nequip.model.{loader}", argument: str(path)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, world) -> Runs:
    """An ordinary training, and ways to go on from it."""
    runs = Runs(tmp_path_factory.mktemp("nequip_train"), world)
    fast = {"training_module": {"optimizer": {"lr": 0.02}}}
    jobs = [
        runs.job("base", trainer=epochs(24), **fast),
        *jobs_with_and_without_the_lines(runs),
        *jobs_that_restart(runs),
        *jobs_of_deployment(runs),
    ]
    # One start for all, since most of its time is the import of nequip.
    runs.start(*([job] for job in jobs), *jobs_on_two_processes(runs))
    return runs


def jobs_with_and_without_the_lines(runs: Runs) -> list[dict]:
    entry = lines_of_the_page()
    common = {"model": started_from(runs.checkpoint("base")), "trainer": epochs(3)}
    return [
        runs.job("plain", **common),
        runs.job("zero", {**entry, "weight": 0.0}, **common),
        runs.job("lines", entry, **common),
    ]


REFUSED = {"seed": {"seed": 3}, "batch limits": {"batch_size": 1}}


def jobs_that_restart(runs: Runs) -> list[dict]:
    entry = {**lines_of_the_page(), "schedule": "linear", "warmup_steps": 6}
    common = {
        "model": started_from(runs.checkpoint("base")),
        # Shuffled frames come in another order after a restart of nequip-train itself.
        "data": {"train_dataloader": {"shuffle": False}},
    }
    restart = {
        **common,
        "ckpt_path": str(runs.checkpoint("half")),
        "trainer": epochs(3),
    }
    return [
        runs.job("whole", entry, **common, trainer=epochs(3)),
        runs.job("half", entry, **common, trainer=epochs(1)),
        runs.job("resumed", entry, **restart),
        *(
            runs.job(f"refused {name}", {**entry, **change}, exit_code=1, **restart)
            for name, change in REFUSED.items()
        ),
    ]


def jobs_on_two_processes(runs: Runs) -> list[list[dict]]:
    probe = {"_target_": "pft_lightning.physics.probes.GaussianProbe", "n_probes": 2}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    def job(name: str, strategy="auto", rank: int | None = None) -> dict:
        n_ranks, environment = 1, {}
        if rank is not None:
            n_ranks = 2
            environment = {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2"} | address
        capture = {
            "_target_": "pft_test_plugins.CaptureGradients",
            "path": str(runs.folder / f"{name}.pt"),
        }
        ours = {**lines_of_the_page(), "probe": probe, "batch_size": 4 // n_ranks}
        return runs.job(
            name,
            ours,
            capture,
            model=started_from(runs.checkpoint("base")),
            environment=environment,
            # All frames in every step, since Lightning shuffles where there are several
            # processes, whatever the loader says.
            data={
                "train_file_path": "twelve.xyz",
                "train_dataloader": {"batch_size": 12 // n_ranks},
            },
            trainer={"max_steps": 3, "devices": n_ranks, "strategy": strategy},
        )

    simple = {"_target_": "nequip.train.SimpleDDPStrategy"}
    return [
        [job("one")],
        [job("simple", simple, rank) for rank in (0, 1)],
        [job("ddp", "ddp", rank) for rank in (0, 1)],
    ]


def jobs_of_deployment(runs: Runs) -> list[dict]:
    package = runs.folder / "lines.nequip.zip"
    deploy = runs.job("deploy")
    deploy["code"] = BLOCKER + DEPLOY.format(
        checkpoint=str(runs.checkpoint("lines")),
        package=str(package),
        numbers=str(runs.folder / "numbers.npz"),
    )
    model = started_from(package, "ModelFromPackage")
    entry = lines_of_the_page()
    return [
        deploy,
        runs.job("from package", entry, model=model, trainer={"max_steps": 1}),
        runs.job(
            "from checkpoint",
            entry,
            model=started_from(runs.checkpoint("lines")),
            trainer={"max_steps": 1},
        ),
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_same_bits(one, other, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same_bits(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same_bits(*pair, f"{where}[{i}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def test_the_lines_of_the_page_lower_the_error_of_the_phonons(runs):
    """On a crystal of no training set, measured by one and the same callback."""
    metric = "val_phonon_epoch/hvp_mae"
    ordinary, fine_tuned = runs.logged("zero", metric), runs.logged("lines", metric)
    assert fine_tuned[-1] < 0.5 * ordinary[-1]
    assert len(runs.logged("lines", "train/hvp_mae")) == 3 * 4
    assert set(runs.logged("lines", "train/hvp_weight")) == {
        lines_of_the_page()["weight"]
    }


def test_the_logged_error_is_that_of_the_potential_that_comes_out(runs, world):
    """Of the averaged weights, which NequIP validates and hands on."""
    from pft_lightning import load_model
    from pft_lightning.data.readers.options import PhononReadOptions
    from pft_lightning.integrations.nequip.phonons import PhononBatches, open_phonons
    from pft_lightning.training.validation import hvp_errors

    model = load_model(runs.checkpoint("lines"))
    store = open_phonons(
        world.phonons_val,
        model,
        options=PhononReadOptions(),
        cache_dir=runs.folder / "cache",
        progress=False,
    )
    (batch,) = PhononBatches(store, n_ranks=1, rank=0).one_by_one()
    error = hvp_errors(model, batch, seed=0).item()
    logged = runs.logged("lines", "val_phonon_epoch/hvp_mae")[-1]
    assert error == pytest.approx(logged, rel=1e-10)


def test_at_weight_zero_the_trajectory_is_bitwise_that_without_the_callback(runs):
    plain, zero = runs.state("plain"), runs.state("zero")
    for part in ("state_dict", "optimizer_states", "ASEDataModule"):
        assert_same_bits(plain[part], zero[part], part)
    for metric in ("train_loss_step/weighted_sum", "val0_epoch/weighted_sum"):
        assert runs.logged("plain", metric) == runs.logged("zero", metric)


def test_a_restart_continues_the_same_trajectory_bitwise(runs):
    whole, resumed = runs.state("whole"), runs.state("resumed")
    for part in ("state_dict", "optimizer_states"):
        assert_same_bits(whole[part], resumed[part], part)
    ours = whole["callbacks"]["HessianLoss"]
    assert ours == resumed["callbacks"]["HessianLoss"]
    assert ours["phonon_steps"] == 3 * 4
    weights = [min(1, (step + 1) / 6) * 2.0 for step in range(12)]
    assert runs.logged("whole", "train/hvp_weight") == pytest.approx(weights)
    for metric in ("train/hvp_mae", "train/hvp_weight"):
        assert runs.logged("whole", metric)[4:] == runs.logged("resumed", metric)
    # The phonons moved the weights at all.
    with pytest.raises(AssertionError):
        assert_same_bits(whole["state_dict"], runs.state("plain")["state_dict"])


@pytest.mark.parametrize("name", REFUSED)
def test_a_restart_that_could_not_continue_is_refused(runs, name):
    output = runs.output(f"refused {name}")
    assert name in output
    assert "original setting" in output


def test_two_processes_have_the_gradients_of_one(runs):
    """To 1e-10: nequip's own loss and the Hessian term, under both strategies."""
    one = torch.load(runs.folder / "one.pt")
    assert len(one) == 3
    for name in ("simple", "ddp"):
        two = torch.load(runs.folder / f"{name}.pt")
        for expected, found in zip(one, two, strict=True):
            for key, gradient in expected["gradients"].items():
                torch.testing.assert_close(
                    found["gradients"][key], gradient, **ROUNDING
                )
        for metric in ("train/hvp_mae", "val_phonon_epoch/hvp_mae"):
            expected = pytest.approx(runs.logged("one", metric), rel=1e-10)
            assert runs.logged(name, metric) == expected


def test_what_comes_out_needs_nothing_of_this_package(runs, world):
    """Packaged, opened and evaluated where pft_lightning cannot be imported."""
    from pft_lightning import Calculator, load_model

    calculator = Calculator(load_model(runs.checkpoint("lines")))
    found = np.load(runs.folder / "numbers.npz")
    frames = ase.io.read(world.upstream_val, ":")
    assert len(found) == 2 * len(frames)
    for i, atoms in enumerate(frames):
        atoms.calc = calculator
        expected = np.append(atoms.get_forces(), atoms.get_potential_energy())
        for name in ("checkpoint", "package"):
            # Relative to the largest: single components may vanish by symmetry.
            error = np.abs(found[f"{name} {i}"] - expected).max()
            assert error < 1e-12 * np.abs(expected).max(), name


def test_a_package_can_be_tuned_like_the_checkpoint_it_was_made_of(runs):
    """The first product is the same; both hold the averaged weights."""
    (packaged,) = runs.logged("from package", "train/hvp_mae")
    (checkpoint,) = runs.logged("from checkpoint", "train/hvp_mae")
    assert packaged == pytest.approx(checkpoint, rel=1e-12)
