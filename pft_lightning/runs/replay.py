"""The frames that a run makes and labels itself (``replay``), kept in its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

import ase
from omegaconf import DictConfig, OmegaConf

from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.datamodule import PhononDataModule
from pft_lightning.data.store import PhononStore, cached_store
from pft_lightning.evaluation.force_constants import in_float64
from pft_lightning.preparation.replay import replay_frames
from pft_lightning.preparation.structures import write_structures
from pft_lightning.runs.folder import RunFolder


TRAIN: Final = "replay-train.xyz"
VAL: Final = "replay-val.xyz"
# One frame of so many is kept back.
_EVERY: Final = 5


def add_replay(upstream: DictConfig, folder: Path) -> None:
    """Name the frames of a run among its upstream frames.

    Args:
        upstream: ``data.upstream`` of the run, which is changed.
        folder: of the run.
    """
    given = upstream.train
    listed = [] if given is None else [given] if isinstance(given, str) else given
    own = str(folder / TRAIN)
    OmegaConf.update(upstream, "train", [*listed, own] if listed else own)
    if upstream.val is None:
        OmegaConf.update(upstream, "val", str(folder / VAL))


def write_replay(
    config: DictConfig,
    folder: RunFolder,
    base_model: Callable[[], EnergyModel],
    data: PhononDataModule,
) -> None:
    """Make the frames of a run, unless it goes on and was trained on those there.

    What a run that never trained has left may be of another base model or seed.

    Args:
        config: of the run.
        folder: of the run.
        base_model: loads it anew: that of the run is adapted, and may have another
            head, or weights that were just drawn.
        data: of the run, whose phonons the crystals are those of.

    Raises:
        PFTError: the phonons cannot be read, or the model knows too few elements.
    """
    train, val = folder.path / TRAIN, folder.path / VAL
    goes_on = config.resume and folder.resume_checkpoint() is not None
    if goes_on and train.exists() and val.exists():
        return
    model = base_model()
    store = cached_store(
        data.phonons.train,
        cutoff=model.cutoff,
        cache_dir=data.cache_dir,
        **asdict(data.phonons.options),
    )
    frames = replay_frames(
        in_float64(model),
        list(_crystals(store)),
        n_frames=config.replay.n_frames,
        seed=config.seed,
    )
    kept_back = frames[::_EVERY]
    trained_on = [frame for i, frame in enumerate(frames) if i % _EVERY]
    write_structures(trained_on or frames, train)
    write_structures(kept_back, val)


def _crystals(store: PhononStore) -> Iterator[ase.Atoms]:
    """Unit cells of phonons; a molecule is its own."""
    for index in range(len(store)):
        record = store.record(index)
        cells = record.cells
        if cells is None:
            yield ase.Atoms(
                record.atomic_numbers,
                record.positions,
                cell=record.cell,
                pbc=record.pbc,
            )
        else:
            yield ase.Atoms(
                cells.atomic_numbers,
                scaled_positions=cells.scaled_positions,
                cell=cells.cell,
                pbc=True,
            )
