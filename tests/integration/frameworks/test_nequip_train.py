"""A stock configuration of ``nequip-train``, plus the lines of docs/nequip.md."""

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
    epochs,
    free_port,
    lines_of_the_page,
    started_from,
)


pytest.importorskip("nequip", reason="NequIP is not installed here")


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
        runs.job(
            "precision",
            {**entry, "weight": 0.0},
            exit_code=1,
            training_module={"model": {"model_dtype": "float32"}},
            trainer={"precision": "64-true"},
        ),
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


def test_a_precision_that_would_change_the_network_is_refused(runs):
    """NequIP alone stops too; a callback of weight zero must not repair it silently."""
    assert "trainer.precision=64-true converts the network" in runs.output("precision")


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
