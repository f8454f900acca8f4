"""What stops ``nequip-train`` before its first step, and which phonons it sees."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch

import pft_lightning
from pft_lightning import keys
from pft_lightning.data.batching import BatchLimits
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.integrations.nequip import HessianLoss
from pft_lightning.integrations.nequip.phonons import PhononBatches, open_phonons
from pft_lightning.testing import PairPotential
from pft_lightning.training.hessian import refuse_closures


ELEMENTS = (3, 8, 9, 11, 12, 14, 17)


@pytest.fixture
def opened(tmp_path):
    def opened(spec: Path | str, elements: tuple[int, ...] = ELEMENTS):
        return open_phonons(
            spec,
            PairPotential(4.0, elements),
            options=PhononReadOptions(),
            cache_dir=tmp_path,
            progress=False,
        )

    return opened


def test_absent_elements_are_named_with_their_files(world, opened):
    with pytest.raises(ConfigError) as caught:
        opened(world.phonons_train, elements=(8, 11, 12, 17))
    message = str(caught.value)
    assert f"{world.phonons_train / 'LiF.yaml'}: Li, F" in message
    assert f"{world.phonons_train / 'Si.yaml'}: Si" in message
    assert "2 of 4" in message
    assert "it knows O, Na, Mg, Cl" in message
    assert "type_names" in message


def test_elements_without_a_finite_energy_are_named_with_a_file(world, tmp_path):
    """In a network of NequIP: types whose statistics are NaN, as no frame has them."""

    class Hollow(PairPotential):
        def energy(self, batch, positions, strain):
            energies = super().energy(batch, positions, strain)
            silicon = (batch[keys.ATOMIC_NUMBERS] == 14).any()
            return energies * (float("nan") if silicon else 1.0)

    with pytest.raises(ConfigError, match=r"Si\.yaml \(Si\) is nan: .*type_names"):
        open_phonons(
            world.phonons_train,
            Hollow(4.0, ELEMENTS),
            options=PhononReadOptions(),
            cache_dir=tmp_path,
            progress=False,
        )


def test_options_of_reading_are_a_plain_block():
    callback = HessianLoss("phonons", weight=1.0, options={"relaxed": "none"})
    assert callback.options == PhononReadOptions(relaxed="none")


def test_an_optimiser_that_looks_at_a_batch_several_times_is_refused():
    trainer = lightning.Trainer(logger=False)
    trainer.optimizers = [torch.optim.LBFGS([torch.zeros(1, requires_grad=True)])]
    with pytest.raises(ConfigError, match="LBFGS evaluates a batch several times"):
        refuse_closures(trainer)


def test_a_missing_path_is_named(opened, tmp_path):
    with pytest.raises(DataFormatError, match=r"nowhere: no such file or folder"):
        opened(tmp_path / "nowhere")


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_module_of_another_library_is_refused(stage):
    callback = HessianLoss("phonons", weight=1.0)
    with pytest.raises(ConfigError, match=r"nequip-train, not with a LightningModule"):
        callback.setup(
            lightning.Trainer(logger=False), lightning.LightningModule(), stage
        )


def test_the_callback_of_the_package_itself_points_to_this_one():
    with pytest.raises(ConfigError, match=r"integrations\.nequip\.HessianLoss"):
        pft_lightning.HessianLoss().setup(
            lightning.Trainer(logger=False), lightning.LightningModule(), "fit"
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps is 0"),
        ({"every_n_steps": 1.5}, "every_n_steps is 1.5; expected a whole number"),
        ({"seed": "abc"}, "seed is 'abc'; expected a whole number of at least 0"),
        ({"warmup_steps": "a"}, "warmup_steps is 'a'; expected a whole number"),
        ({"huber_delta": "a"}, "huber_delta is 'a'; expected a number"),
        ({"batch_size": "four"}, "structures is 'four'; expected a whole number"),
        ({"max_edges": 0.5}, "edges is 0.5; expected a whole number of at least 1"),
        ({"phonons": None}, "phonons is None; expected a file, folder"),
        ({"val_phonons": [5]}, r"val_phonons is \[5\]; expected a file, folder"),
        ({"weight": -1.0}, r"weight .* is -1"),
        ({"kind": "rmse"}, "'rmse'"),
        ({"reduction": "none"}, "'none'"),
        ({"batch_size": 0}, "is 0; expected a whole number of at least 1"),
        ({"engine": "backwards"}, "'backwards'; expected one of"),
        ({"huber_delta": -1.0}, "huber_delta is -1"),
        ({"weight": None}, "is None; expected a number"),
        ({"weight": float("nan")}, "is nan; expected a number"),
        ({"probe": "commensurate"}, "probe is 'commensurate'; .*_target_"),
        ({"options": {"unit": "vasp"}}, "options has unknown options: unit"),
    ],
)
def test_a_setting_without_meaning_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        HessianLoss(**{"phonons": "phonons", "weight": 1.0, **settings})


def test_processes_share_the_structures_of_a_step_and_none_is_validated_twice(
    world, opened
):
    store = opened(world.phonons_train)
    shares = [PhononBatches(store, n_ranks=3, rank=rank) for rank in range(3)]
    validated = [b[keys.NAME][0] for share in shares for b in share.one_by_one()]
    assert sorted(validated) == sorted(store.names)

    limits = BatchLimits(structures=1)
    streams = [share.stream(limits, seed=5, commensurate_share=0.0) for share in shares]
    for step in range(6):
        batches = [
            share.read(stream.keys(keys.PHONON, step))
            for share, stream in zip(shares, streams, strict=True)
        ]
        names = [b[keys.NAME][0] for b in batches if b[keys.COUNTED].all()]
        # Four structures for three processes: three, then one and two fillers.
        assert len(names) == len(set(names)) == (3 if step % 2 == 0 else 1)


def test_a_probe_in_commensurate_cells_gets_these_cells(world, opened):
    share = PhononBatches(opened(world.phonons_train), n_ranks=1, rank=0)
    limits = BatchLimits(structures=4)
    whole, folded = (
        share.stream(limits, seed=5, commensurate_share=fraction) for fraction in (0, 1)
    )
    for step in range(3):
        cells = share.read(folded.keys(keys.PHONON, step))
        supercells = share.read(whole.keys(keys.PHONON, step))
        assert cells[keys.NAME] == supercells[keys.NAME]
        # Eight primitive cells: all q-points but Γ are of order two.
        constants = cells[keys.FORCE_CONSTANTS]
        assert {one.order for one in constants} <= {1, 2}
        assert [one.supercell_atoms for one in constants] == [
            one.n_atoms for one in supercells[keys.FORCE_CONSTANTS]
        ]
        assert cells.num_nodes == sum(one.n_atoms for one in constants)
