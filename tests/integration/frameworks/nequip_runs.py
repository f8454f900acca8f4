"""Runs of a stock configuration of ``nequip-train``, for tests."""

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
import torch
import yaml
from commands import own_cache


HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "nequip.md"
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


def blocks_of_the_page() -> list[dict]:
    """What the documentation tells users to write, in its order."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


def lines_of_the_page() -> dict:
    """The entry of ``trainer.callbacks`` that the documentation tells users to add."""
    (entry,) = blocks_of_the_page()[0]["trainer"]["callbacks"]
    return entry


class Runs:
    """Runs of ``nequip-train`` in one folder, and what they leave."""

    def __init__(self, folder: Path, world) -> None:
        self.folder = folder
        self.data = folder / "data"
        (self.data / "phonons").mkdir(parents=True)
        self.cache = own_cache(folder / "cache")
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
            | self.cache
            | {
                "PYTHONPATH": os.pathsep.join(
                    [
                        str(HERE.parent / "plugins"),
                        *filter(None, [os.environ.get("PYTHONPATH")]),
                    ]
                ),
                "OMP_NUM_THREADS": "1",
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
