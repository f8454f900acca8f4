"""The training module and the data module with loaders for frames and phonons."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
import torch
from nequip_runs import (
    BLOCKER,
    DEPLOY,
    ROUNDING,
    Runs,
    assert_same_bits,
    blocks_of_the_page,
    epochs,
    free_port,
    lines_of_the_page,
)


pytest.importorskip("nequip", reason="NequIP is not installed here")

# Epochs have four steps, so that the term falls on any place in them.
HESSIAN = {"every_n_steps": 3, "schedule": "linear", "warmup_steps": 6}
PROBE = {"_target_": "pft_lightning.physics.probes.GaussianProbe", "n_probes": 2}
EXPORT = """
import sys
from pft_lightning.cli.export import main
sys.argv = ["pft-export", "model.checkpoint={checkpoint}", "out={out}",
            "hydra.run.dir={run}"]
main()
"""
OPEN = """
NequIPCalculator._from_saved_model(
    {package!r}, device="cpu", chemical_species_to_atom_type_map=True
)
assert "pft_lightning" not in sys.modules
"""
PACKAGE = """
from nequip.scripts.package import main
main(["build", {checkpoint!r}, {package!r}])
"""


def sections(*, phonons: dict | None = None, hessian: dict | None = None) -> dict:
    """The second block of the page, with other options."""
    block = blocks_of_the_page()[1]
    block["data"]["phonons"].update(phonons or {})
    block["training_module"]["hessian"].update(hessian or {})
    block["data"]["train_dataloader"] = {"shuffle": False}
    return block


def values(runs: Runs, name: str, metric: str) -> list[float]:
    """What was logged; Lightning repeats a value until the next one in an epoch."""
    return list(dict.fromkeys(runs.logged(name, metric)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, world) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("nequip_module"), world)
    jobs = [*jobs_of_both_ways(runs), *jobs_that_fail(runs), *jobs_of_deployment(runs)]
    # One start for all, since most of its time is the import of nequip.
    runs.start(*([job] for job in jobs), *jobs_on_two_processes(runs))
    return runs


def jobs_of_both_ways(runs: Runs) -> list[dict]:
    small = {"batch_size": 2}
    callback = {**lines_of_the_page(), **small, **HESSIAN}
    second_epoch = {
        "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
        "dirpath": str(runs.folder),
        "filename": "{epoch}",
        "every_n_epochs": 2,
    }
    no_workers = sections(phonons={**small, "num_workers": 0}, hessian=HESSIAN)
    workers = sections(phonons=small, hessian=HESSIAN)
    start = {"ckpt_path": str(runs.folder / "epoch=1.ckpt"), "trainer": epochs(3)}
    shuffled = {"train_dataloader": {"shuffle": False}}
    other = sections(phonons={"batch_size": 1}, hessian=HESSIAN)
    return [
        runs.job("callback", callback, data=shuffled, trainer=epochs(3)),
        runs.job("module", second_epoch, **no_workers, trainer=epochs(3)),
        runs.job("workers", **workers, trainer=epochs(3)),
        runs.job("resumed", **workers, **start),
        runs.job("refused", **other, **start, exit_code=1),
    ]


def jobs_that_fail(runs: Runs) -> list[dict]:
    block = sections()
    module, data = block["training_module"], block["data"]
    return [
        runs.job("module alone", training_module=module, exit_code=1),
        runs.job("data alone", data=data, exit_code=1),
        runs.job("two terms", lines_of_the_page(), **block, exit_code=1),
    ]


def jobs_on_two_processes(runs: Runs) -> list[list[dict]]:
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
        block = sections(
            phonons={"batch_size": 4 // n_ranks, "num_workers": 0},
            hessian={"probe": PROBE},
        )
        # All frames in every step, since Lightning shuffles where there are several
        # processes, whatever the loader says.
        block["data"]["train_file_path"] = "twelve.xyz"
        block["data"]["train_dataloader"] = {"batch_size": 12 // n_ranks}
        trainer = {"max_steps": 3, "devices": n_ranks, "strategy": strategy}
        return runs.job(
            name, capture, environment=environment, trainer=trainer, **block
        )

    simple = {"_target_": "nequip.train.SimpleDDPStrategy"}
    return [
        [job("one")],
        [job("simple", simple, rank) for rank in (0, 1)],
        [job("ddp", "ddp", rank) for rank in (0, 1)],
    ]


def jobs_of_deployment(runs: Runs) -> list[dict]:
    checkpoint, exported = runs.checkpoint("module"), runs.folder / "exported.ckpt"
    code = {
        "package": PACKAGE.format(
            checkpoint=str(checkpoint), package=str(runs.folder / "own.nequip.zip")
        ),
        "package elsewhere": BLOCKER
        + PACKAGE.format(
            checkpoint=str(checkpoint), package=str(runs.folder / "no.nequip.zip")
        ),
        "export": EXPORT.format(
            checkpoint=checkpoint, out=exported, run=runs.folder / "export"
        ),
        "exported elsewhere": BLOCKER
        + DEPLOY.format(
            checkpoint=str(exported),
            package=str(runs.folder / "exported.nequip.zip"),
            numbers=str(runs.folder / "numbers.npz"),
        )
        + OPEN.format(package=str(runs.folder / "own.nequip.zip")),
    }
    return [
        {
            **runs.job(name, exit_code=int(name == "package elsewhere")),
            "code": content,
        }
        for name, content in code.items()
    ]


@pytest.mark.parametrize("name", ["module", "workers"])
def test_a_loader_changes_no_bit_of_what_the_callback_does(runs, name):
    """Bitwise: the same operations on the same structures, in the same order."""
    callback, module = runs.state("callback"), runs.state(name)
    for part in ("state_dict", "optimizer_states"):
        assert_same_bits(callback[part], module[part], part)
    assert len(values(runs, name, "train/hvp_mae")) == 4
    for metric in (
        "train/hvp_mae",
        "train/hvp_weight",
        "val_phonon_epoch/hvp_mae",
        "train_loss_step/weighted_sum",
        "val0_epoch/weighted_sum",
    ):
        assert runs.logged(name, metric) == runs.logged("callback", metric), metric


def test_a_restart_continues_the_same_trajectory_bitwise(runs):
    """From the eighth step of twelve, now with processes that read."""
    whole, resumed = runs.state("module"), runs.state("resumed")
    for part in ("state_dict", "optimizer_states", "pft_lightning.hessian_term"):
        assert_same_bits(whole[part], resumed[part], part)
    assert whole["pft_lightning.hessian_term"]["phonon_steps"] == 12
    # The term was due at steps 0, 3 and 6 before, at 9 after the restart.
    errors = values(runs, "module", "train/hvp_mae")
    assert values(runs, "resumed", "train/hvp_mae") == errors[3:]
    assert values(runs, "resumed", "train/hvp_weight") == [2.0]


def test_a_restart_that_could_not_continue_is_refused(runs):
    output = runs.output("refused")
    assert "batch limits" in output
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


def test_its_checkpoint_is_packaged_only_where_this_package_is(runs, world):
    from pft_lightning import Calculator, load_model

    assert "pft_lightning is not here" in runs.output("package elsewhere")
    checkpoint = Calculator(load_model(runs.checkpoint("module")))
    package = Calculator(load_model(runs.folder / "own.nequip.zip"))
    for atoms in ase.io.read(world.upstream_val, ":"):
        expected = checkpoint.get_forces(atoms)
        error = np.abs(package.get_forces(atoms) - expected).max()
        assert error < 1e-12 * np.abs(expected).max()


def test_what_pft_export_writes_of_it_needs_nothing_of_this_package(runs, world):
    """Packaged, opened and evaluated where pft_lightning cannot be imported."""
    from pft_lightning import Calculator, load_model

    calculator = Calculator(load_model(runs.checkpoint("module")))
    found = np.load(runs.folder / "numbers.npz")
    frames = ase.io.read(world.upstream_val, ":")
    assert len(found) == 2 * len(frames)
    for i, atoms in enumerate(frames):
        atoms.calc = calculator
        expected = np.append(atoms.get_forces(), atoms.get_potential_energy())
        for name in ("checkpoint", "package"):
            error = np.abs(found[f"{name} {i}"] - expected).max()
            assert error < 1e-12 * np.abs(expected).max(), name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("module alone", "is ASEDataModule, which brings none"),
        (
            "data alone",
            "training_module._target_ is EMALightningModule, which does not",
        ),
        ("two terms", "PhononEMALightningModule has a Hessian term of its own"),
    ],
)
def test_half_of_the_pair_and_both_ways_at_once_are_refused(runs, name, said):
    assert said in runs.output(name)
