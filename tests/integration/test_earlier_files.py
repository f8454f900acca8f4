"""Run folders, stores and evaluations of commit 8e53a36, without a framework."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from earlier_files import (
    ROUNDING,
    check_export_of_the_run,
    check_goes_on,
    check_potentials,
    run,
    unpack,
)

from pft_lightning.data.store import PhononStore


@pytest.fixture
def folder(tmp_path) -> Path:
    return unpack("pair", tmp_path)


def test_potentials_of_the_earlier_version_have_its_numbers(folder):
    check_potentials(folder, "pair", ".pt")


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_run_of_the_earlier_version_is_exported(folder, weights):
    check_export_of_the_run(folder, "pair", ".pt", weights)


def test_a_run_of_the_earlier_version_goes_on_as_it_would_have(folder):
    check_goes_on(folder, "pair", ".pt")


def test_a_store_of_the_earlier_version_is_read_and_built_again(folder):
    """The same numbers as of the files; the same command gives it checksums."""
    sources = "phonons=[phonons/LiF.yaml.xz,phonons/NaF.yaml.xz]"
    run("pft-prepare", folder, sources, "out=now", "cutoff=4.0")
    with pytest.warns(UserWarning, match="has no checksums"):
        earlier = PhononStore(folder / "store")
    now = PhononStore(folder / "now")
    assert (earlier.names, earlier.cutoff) == (now.names, 4.0)
    for index in range(len(now)):
        old, new = earlier.data(index), now.data(index)
        assert old.keys() == new.keys()
        for name in old.keys():  # noqa: SIM118  (not a dictionary)
            before, after = (getattr(d[name], "compact", d[name]) for d in (old, new))
            if name == "force_constants":
                # Made of forces on another processor; sums end in other last bits.
                np.testing.assert_allclose(after, before, rtol=0, atol=1e-14)
                continue
            assert np.array_equal(np.asarray(before), np.asarray(after)), name
    training = ("model.checkpoint=base.pt", "data.phonons.train=store", "logger=none")
    limits = ("trainer.max_steps=1", "trainer.accelerator=cpu", "data.val_fraction=0.5")
    run("pft-train", folder, *training, *limits, "hydra.run.dir=new")
    assert "2 structures" in run(
        "pft-prepare", folder, sources, "out=store", "cutoff=4.0"
    )
    assert not list((folder / "store").glob("*.lmdb"))


def averages(folder: Path) -> dict:
    """Mean of each metric of each potential, and how much was forgotten."""
    summary = json.loads((folder / "metrics.json").read_text())
    return {
        label: {
            name: metric["mean"]
            for name, metric in model.items()
            if isinstance(metric, dict)
            and metric.get("mean") is not None
            and name != "seconds"
        }
        | {
            f"forgetting_{name}": value
            for name, value in summary["forgetting"][label].items()
            if isinstance(value, float)
        }
        for label, model in summary["models"].items()
    }


def test_an_evaluation_of_the_earlier_version_goes_on_with_its_numbers(folder):
    expected = averages(folder / "evaluation")
    command = (folder / "evaluation" / "command.txt").read_text().splitlines()[-1]
    run(*shlex.split(command)[:1], folder, *shlex.split(command)[1:])
    found = averages(folder / "evaluation")
    assert expected.keys() == found.keys() == {"base", "model"}
    for label, metrics in expected.items():
        assert len(metrics) > 10
        for name, value in metrics.items():
            # Tetrahedra take frequencies in their order, which rounding decides where
            # they are degenerate: another processor differs by 1e-8.
            rel = 1e-7 if name == "dos_error" else 1e-8
            close = pytest.approx(value, rel=rel, abs=ROUNDING)
            assert found[label][name] == close, name


def test_an_evaluation_of_the_earlier_version_is_reported(folder):
    from pft_lightning.plots.report import write_report

    report = write_report(folder / "evaluation")
    assert ">NaF<" in Path(report).read_text()
