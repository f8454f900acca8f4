"""How the processes of an evaluation share its materials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from tqdm import tqdm

from pft_lightning.evaluation import processes
from pft_lightning.evaluation.folder import Record
from pft_lightning.evaluation.reference import Material


_Content = TypeVar("_Content")


def compute_records(
    materials: list[Material[_Content]],
    finished: Mapping[str, Record],
    compute: Callable[[Material[_Content]], Record],
    *,
    progress: bool,
    what: str,
) -> list[Record]:
    """Compute the records that are not there yet, shared among the processes.

    Args:
        materials: all of them, the same in every process.
        finished: records of an earlier evaluation, by name.
        compute: gives the record of a material, and writes it where it is kept.
        progress: show how many are done, and how long the others will take.
        what: is computed, for the progress bar.

    Returns:
        Records of all materials, in their order.
    """
    # Nobody writes before everyone has seen what is there, so all share one list.
    processes.barrier()
    pending = [material for material in materials if material.name not in finished]
    rank, n_ranks = processes.rank()
    mine = tqdm(
        pending[rank::n_ranks],
        desc=what,
        unit="material",
        disable=not (progress and rank == 0 and pending),
    )
    computed: dict[str, Record] = {}
    for material in mine:
        mine.set_postfix_str(material.name, refresh=False)
        computed[material.name] = compute(material)
    records = dict(finished)
    for share in processes.gather(computed):
        records.update(share)
    return [records[material.name] for material in materials]
