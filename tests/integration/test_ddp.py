from __future__ import annotations

import json

import pytest
import torch
from two_processes import TWO, capture, check_same_steps, run


@pytest.mark.parametrize(
    ("mode", "reduction", "probe"),
    [
        ("alternate", "structures", "gaussian"),
        ("joint", "atoms", "gaussian"),
        ("joint", "structures", "commensurate"),
    ],
)
def test_two_processes_have_the_loss_and_gradients_of_one(
    pft_train, tmp_path, mode, reduction, probe
):
    common = (
        f"data.mode={mode}",
        f"loss.reduction={reduction}",
        f"probe={probe}",
        "loss.phonon.energy=1",
        "trainer.max_steps=3",
        "callbacks.ema=null",
    )
    one = pft_train(
        tmp_path / "one",
        *common,
        *capture(tmp_path / "one.pt"),
        "data.phonons.batch_size=4",
        "data.upstream.batch_size=8",
    )
    run(one)
    run(pft_train(tmp_path / "two", *common, *capture(tmp_path / "two.pt"), *TWO))

    expected = torch.load(tmp_path / "one.pt")
    found = torch.load(tmp_path / "two.pt")
    assert len(expected) == len(found) == 3
    check_same_steps(expected, found)


def test_two_processes_have_the_third_order_and_elastic_terms_of_one(
    pft_train, third_order_store, elastic_crystals, tmp_path
):
    """Of four crystals three have a reference: a process may have none in its half."""
    common = (
        f"data.phonons.train={third_order_store}",
        "loss.phonon.third_order=100",
        f"data.elastic.train={elastic_crystals}",
        f"data.elastic.val={elastic_crystals}",
        "data.mode=joint",
        "trainer.max_steps=3",
        "callbacks.ema=null",
    )
    sizes = ("data.phonons.batch_size=4", "data.upstream.batch_size=8")
    one = (*common, *capture(tmp_path / "one.pt"), *sizes)
    run(pft_train(tmp_path / "one", *one, "data.elastic.batch_size=4"))
    two = (*common, *capture(tmp_path / "two.pt"), *TWO)
    run(pft_train(tmp_path / "two", *two, "data.elastic.batch_size=2"))
    expected, found = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert len(expected) == len(found) == 3
    check_same_steps(expected, found)
    before, after = (
        json.loads((tmp_path / name / "summary.json").read_text())[
            "elastic/shear_modulus_mae"
        ]
        for name in ("one", "two")
    )
    assert before["after"] != before["before"]
    assert after == pytest.approx(before, rel=1e-9)  # the same steps, other sums


def check_two_processes(pft_train, tmp_path, common) -> None:
    """Three steps of one process, and of two with half of the batch each."""
    sizes = ("data.phonons.batch_size=4", "data.upstream.batch_size=8")
    run(pft_train(tmp_path / "one", *common, *capture(tmp_path / "one.pt"), *sizes))
    run(pft_train(tmp_path / "two", *common, *capture(tmp_path / "two.pt"), *TWO))
    expected, found = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert len(expected) == len(found) == 3
    check_same_steps(expected, found)


def test_two_processes_have_the_properties_of_one(pft_train, tmp_path):
    """Half of the structures are computed: a process may have none in its half."""
    common = (
        "loss.phonon.frequencies=10",
        "loss.phonon.entropy=1",
        "loss.property_share=0.5",
        "data.mode=joint",
        "trainer.max_steps=3",
        "callbacks.ema=null",
    )
    check_two_processes(pft_train, tmp_path, common)


def test_two_processes_have_the_measured_terms_of_one(
    pft_train, measured_options, tmp_path
):
    """Of four items one is a heat capacity: a process has none of that."""
    common = (
        *measured_options,
        "data.mode=joint",
        "trainer.max_steps=3",
        "callbacks.ema=null",
    )
    sizes = ("data.phonons.batch_size=4", "data.upstream.batch_size=8")
    one = (*common, *capture(tmp_path / "one.pt"), *sizes)
    run(pft_train(tmp_path / "one", *one, "data.measured.batch_size=4"))
    two = (*common, *capture(tmp_path / "two.pt"), *TWO)
    run(pft_train(tmp_path / "two", *two, "data.measured.batch_size=2"))
    expected, found = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert len(expected) == len(found) == 3
    check_same_steps(expected, found)
    first, second = (
        json.loads((tmp_path / name / "summary.json").read_text())[
            "measured/frequencies_mae"
        ]
        for name in ("one", "two")
    )
    assert first["after"] != first["before"]
    assert second == pytest.approx(first, rel=1e-9)  # the same steps, other sums


def test_a_process_that_is_short_of_memory_takes_the_same_steps(pft_train, tmp_path):
    common = (
        "data.mode=joint",
        "probe=commensurate",
        "trainer.max_steps=3",
        "callbacks.ema=null",
    )
    sizes = ("data.phonons.batch_size=4", "data.upstream.batch_size=8")
    little = "+callbacks.little._target_=pft_test_plugins.LittleMemory"
    run(pft_train(tmp_path / "one", *common, *capture(tmp_path / "one.pt"), *sizes))
    two = (*common, *capture(tmp_path / "two.pt"), *TWO, little)
    run(pft_train(tmp_path / "two", *two))
    expected, found = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert len(expected) == len(found) == 3
    check_same_steps(expected, found)
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["memory_splits"] > 3


@pytest.mark.parametrize("mode", ["alternate", "joint"])
def test_no_process_waits_when_one_source_is_exhausted_first(pft_train, tmp_path, mode):
    # 13 frames in batches of 2 x 4 end long before, or long after, 4 crystals.
    run(
        pft_train(
            tmp_path,
            *TWO,
            f"data.mode={mode}",
            "data.phonons.batch_size=1",
            "trainer.max_steps=25",
            "callbacks.last.every_n_steps=10",
        )
    )
    assert (tmp_path / "summary.json").is_file()


def test_one_structure_for_two_processes_counts_once(pft_train, world, tmp_path):
    """Also where the last batch of an epoch, or the validation, is a single crystal."""
    crystals = [world.phonons_train / f"{name}.yaml" for name in ("LiF", "MgO", "Si")]
    common = (
        f"data.phonons.train=[{','.join(map(str, crystals))}]",
        "data.upstream.train=null",
        "data.upstream.val=null",
        "callbacks.ema=null",
        "export=last",
        "trainer.max_steps=4",
    )
    for name, batch_size, devices in (("one", 2, ()), ("two", 1, TWO)):
        run(
            pft_train(
                tmp_path / name,
                *common,
                *capture(tmp_path / f"{name}.pt"),
                f"data.phonons.batch_size={batch_size}",
                *devices,
            )
        )
    expected, found = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert len(expected) == len(found) == 4
    check_same_steps(expected, found)
    summaries = [
        json.loads((tmp_path / name / "summary.json").read_text())
        for name in ("one", "two")
    ]
    assert summaries[0]["phonon/hvp_mae"]["before"] == pytest.approx(
        summaries[1]["phonon/hvp_mae"]["before"], rel=1e-12
    )


@pytest.mark.parametrize("mode", ["alternate", "joint"])
def test_two_processes_find_the_weights_of_one(pft_train, tmp_path, mode):
    common = (
        "loss=auto",
        f"data.mode={mode}",
        "trainer.max_steps=3",
        "callbacks.ema=null",
    )
    check_two_processes(pft_train, tmp_path, common)
    first, second = (
        json.loads((tmp_path / name / "summary.json").read_text())["loss_weights"]
        for name in ("one", "two")
    )
    assert len(first) == 5
    assert second == pytest.approx(first, rel=1e-9)  # the same steps, other sums
