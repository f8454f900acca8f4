"""The phonon loader beside the frames of NequIP, and the blocks that configure it."""

from __future__ import annotations

import itertools

import pytest
import torch

from pft_lightning import keys
from pft_lightning.data.batching import BatchLimits
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.errors import ConfigError
from pft_lightning.integrations.nequip.options import build_options
from pft_lightning.integrations.nequip.phonons import PhononBatches, open_phonons
from pft_lightning.integrations.nequip.term import NequIPHvpTerm
from pft_lightning.physics.probes import RademacherProbe
from pft_lightning.testing import PairPotential


pytest.importorskip("nequip", reason="NequIP is not installed here")

from pft_lightning.integrations.nequip.datamodule import (
    PhononASEDataModule,
    PhononLoader,
    PhononLoading,
)
from pft_lightning.integrations.nequip.hessian_loss import HessianLoss


@pytest.fixture
def batches(world, tmp_path) -> PhononBatches:
    store = open_phonons(
        world.phonons_train,
        PairPotential(4.0, (3, 8, 9, 11, 12, 14, 17)),
        options=PhononReadOptions(),
        cache_dir=tmp_path,
        progress=False,
    )
    return PhononBatches(store, n_ranks=1, rank=0)


def names(items) -> list[list[str]]:
    return [item[keys.PHONON][keys.NAME] if item else [] for item in items]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_goes_on_from_the_step_that_training_has_come_to(
    batches, num_workers
):
    """In the middle of an epoch too, and over its end, whoever reads."""
    term = NequIPHvpTerm(weight=1.0, every_n_steps=2, seed=5)
    stream = term.open_stream(batches, BatchLimits(3))
    loader = PhononLoader(batches, stream, term, num_workers=num_workers, n_steps=4)
    before = torch.get_rng_state()
    whole = names(itertools.islice(loader, 12))
    expected = [
        [batches.store.names[key.structure] for key in stream.keys(keys.PHONON, i)]
        for i in range(6)
    ]
    assert whole[::2] == expected
    assert whole[1::2] == [[]] * 6
    for step in (3, 8):
        term.load_state_dict({**term.state_dict(), "phonon_steps": step})
        assert names(itertools.islice(loader, 12 - step)) == whole[step:]
    # The frames come in the order that they have without phonons.
    assert torch.equal(torch.get_rng_state(), before)


def test_a_block_gives_the_arguments_that_it_names():
    probe = "pft_lightning.physics.probes.RademacherProbe"
    block = {"weight": 2.0, "probe": {"_target_": probe, "n_probes": 3}}
    term = NequIPHvpTerm(**build_options(NequIPHvpTerm, block, name="hessian"))
    assert repr(term.probe) == repr(RademacherProbe(n_probes=3))
    assert term.weight_at(7) == 2.0


@pytest.mark.parametrize(
    ("target", "block", "said"),
    [
        (
            NequIPHvpTerm,
            {"weight": 1.0, "wieght": 2.0},
            "unknown options: wieght. Known",
        ),
        (NequIPHvpTerm, {"seed": 1}, "training lacks weight"),
        (PhononLoading, {"batch_size": 1}, "training lacks train"),
        (PhononLoading, "phonons/train", "is 'phonons/train'; expected a block"),
    ],
)
def test_a_block_that_is_not_understood_is_refused(target, block, said):
    with pytest.raises(ConfigError, match=said):
        build_options(target, block, name="training")


def test_numbers_out_of_range_stop_the_data_module_when_it_is_built():
    for option, value in (("num_workers", -1), ("batch_size", 0)):
        with pytest.raises(ConfigError, match=f"{value}; .*at least"):
            PhononASEDataModule(phonons={"train": "x", option: value}, seed=1)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("cache_dir", 5, r"cache_dir=5; expected a folder, or null"),
        ("cache_dir", ["a"], r"cache_dir=\['a'\]; expected a folder, or null"),
        ("cache_dir", __file__, "is a file; expected a folder"),
        (
            "options",
            {"units": "foo"},
            "units='foo' is neither a code .* accepted: .*qe",
        ),
    ],
)
def test_a_value_of_another_kind_is_named_by_every_block(option, value, said):
    for make in (
        lambda: PhononASEDataModule(phonons={"train": "x", option: value}, seed=1),
        lambda: HessianLoss("x", weight=1.0, **{option: value}),
    ):
        with pytest.raises(ConfigError, match=said):
            make()


def test_options_of_reading_are_a_block_in_a_block():
    data = PhononASEDataModule(
        phonons={"train": "x", "options": {"relaxed": "none"}}, seed=1
    )
    assert data.phonons.options.relaxed == "none"


def test_a_data_module_without_a_trainer_gives_frames_alone(world):
    """What the statistics of NequIP and nequip-package ask for; no phonon is read."""
    data = PhononASEDataModule(
        phonons={"train": "nowhere"},
        seed=1,
        train_file_path=str(world.upstream_train),
        val_file_path=str(world.upstream_val),
        train_dataloader={"batch_size": 3},
    )
    data.setup("fit")
    assert "pos" in next(iter(data.train_dataloader()))
