"""What a potential forgot: its errors on frames like those it was trained on."""

from __future__ import annotations

import contextlib
import copy
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import chemical_symbols
from torch_geometric.data import Batch
from tqdm import tqdm

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.batching import BatchLimits, plan_batches
from pft_lightning.data.sources import Spec, find_sources
from pft_lightning.data.upstream import UpstreamFrames
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.failures import check_failure, describe, is_lasting
from pft_lightning.evaluation.folder import FORCES_MAE, EvaluationFolder
from pft_lightning.evaluation.force_constants import Potential, in_float64
from pft_lightning.graphs import build_batch
from pft_lightning.losses import (
    absolute_errors,
    doubtful_labels,
    residuals,
)
from pft_lightning.types import Derivatives


# Changes when the same input would give other numbers.
_RESULTS_VERSION = 2

# Å; ASE calculators make neighbour lists of their own.
_NO_EDGES = 0.1

# Group -> name of the element, source or quantity -> (sum of errors, how many).
Sums = dict[str, dict[str, list[float]]]


def evaluate_upstream(
    models: Mapping[str, Potential],
    upstream: Spec,
    names: Mapping[str, str | None] | None = None,
    limits: Mapping[str, float] | None = None,
    *,
    fingerprints: Mapping[str, str],
    heads: Mapping[str, str] | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> dict[str, dict[str, Any]]:
    """Errors of several models on upstream frames; see ``merge`` for the content.

    A model that fails has an ``error`` in place of numbers. The processes of torch's
    process group share the frames.

    Args:
        models: by label.
        upstream: file, folder, glob, or a list of them.
        names: of "energy", "forces" and "stress" in the files.
        limits: ``max_force`` and alike, see ``UpstreamFrames``.
        fingerprints: of the models, by label.
        heads: output heads for such frames by label, where not in use.
        folder: of the evaluation, where what was finished before is not computed again;
            None for none.
        progress: Show a progress bar.

    Raises:
        DataFormatError: no frame can be used.
    """
    frames = UpstreamFrames(upstream, _NO_EDGES, names, **(limits or {}))
    is_first = processes.rank()[0] == 0
    if not frames.is_plain and is_first:
        warnings.warn(f"Upstream frames: {frames.summary()}", stacklevel=2)
    stored = None if folder is None else EvaluationFolder(folder)
    settings = [_state(upstream), dict(names or {}), dict(limits or {})]
    heads = heads or {}
    identities = {}
    for label in models:
        own = [heads[label]] if label in heads else []
        told = [_RESULTS_VERSION, fingerprints[label], *settings, *own]
        identities[label] = json.dumps(told)
    results = {
        label: None if stored is None else stored.read_forgetting(label, identity)
        for label, identity in identities.items()
    }
    # Everyone decides what to do before anyone writes.
    processes.barrier()
    errors: dict[str, dict[str, Any]] = {}
    for label, model in models.items():
        if (known := results[label]) is not None:
            errors[label] = known
            continue
        with _using(model, heads.get(label)):
            errors[label], lasting = _evaluate_model(
                model, frames, progress and is_first
            )
        if stored is not None and is_first and lasting:
            stored.write_forgetting(label, identities[label], errors[label])
    return errors


@contextlib.contextmanager
def _using(model: Potential, head: str | None) -> Iterator[None]:
    """Use another output head of a model for a while; None leaves it as it is."""
    if head is None or not isinstance(model, EnergyModel):
        yield
        return
    kept, model.head = model.head, head
    try:
        yield
    finally:
        model.head = kept


def _evaluate_model(
    model: Potential, frames: UpstreamFrames, progress: bool
) -> tuple[dict[str, Any], bool]:
    """Errors of one model, and whether they would come out again."""
    rank, n_ranks = processes.rank()
    view = copy.copy(frames)
    view.cutoff = model.cutoff if isinstance(model, EnergyModel) else _NO_EDGES
    shares = processes.gather(_try_errors(model, view, rank, n_ranks, progress))
    failed = [share["failed"] for share in shares if "failed" in share]
    if not failed:
        return merge(shares), True
    lasting = all(known for one in failed for known, _ in one.values())
    return {"error": next(iter(failed[0]))}, lasting


def _state(upstream: Spec) -> list[list[Any]]:
    """What tells that files have changed."""
    return [
        [str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns]
        for path in find_sources(upstream, kind="upstream").paths
    ]


def _try_errors(
    model: Potential, frames: UpstreamFrames, rank: int, n_ranks: int, progress: bool
) -> Sums:
    """Collect errors; a failure becomes a sum, as other processes wait for one."""
    try:
        return collect_errors(
            model, frames, rank=rank, n_ranks=n_ranks, progress=progress
        )
    except Exception as cause:
        check_failure(cause)
        lasting = 1.0 if is_lasting(cause) else 0.0
        return {"failed": {describe(cause): [lasting, 1.0]}}


def collect_errors(
    model: Potential,
    frames: UpstreamFrames,
    *,
    rank: int = 0,
    n_ranks: int = 1,
    max_atoms: int = 512,
    progress: bool = False,
) -> Sums:
    """Sum the errors over one rank's share of the frames.

    Frames with elements that the model lacks are counted under ``left_out``. The
    arithmetic is float64.

    Args:
        model: from ``load_model``, or an ASE calculator.
        frames: with energies, forces and stresses, where known.
        rank: This process.
        n_ranks: Number of processes.
        max_atoms: Atoms of one pass.
        progress: Show a progress bar.
    """
    sums: Sums = {"total": {}, "per_element": {}, "per_source": {}}
    if isinstance(model, EnergyModel):
        model = in_float64(model)
        frames, left_out = frames.select(model.atomic_numbers)
        if rank == 0:
            sums["left_out"] = {"frames": [0.0, float(len(left_out))]}
    limits = BatchLimits(structures=64, atoms=max_atoms)
    share = np.arange(len(frames))[rank::n_ranks]
    plan = plan_batches(share, frames.n_atoms, None, limits, 1) if len(share) else []
    for step in tqdm(plan, desc="upstream frames", leave=False, disable=not progress):
        indices = [index for index in step[0] if index >= 0]
        batch = build_batch([frames.data(index) for index in indices])
        sources = [frames.names[index].rsplit("/", 1)[0] for index in indices]
        if isinstance(model, EnergyModel):
            batch = batch.to(model.device)
            with torch.no_grad():
                derivatives = model.derivatives(batch)
        else:
            derivatives = _ase_derivatives(model, frames, indices)
        if step is plan[0]:
            for reason in doubtful_labels(derivatives, batch):
                warnings.warn(f"Upstream frames: {reason}", stacklevel=2)
        _add(sums, derivatives, batch, sources)
    return sums


def merge(shares: Iterable[Sums]) -> dict[str, Any]:
    """Turn the sums of all ranks into mean absolute errors.

    Returns:
        ``energy_mae`` (eV/atom), ``forces_mae`` (eV/Å) and ``stress_mae`` (eV/Å³), the
        means over structures of the error of each; ``n_structures``; ``per_element``
        with the ``forces_mae`` over the atoms of an element and ``n_atoms``;
        ``per_source`` with the three errors by file. What has no reference is left
        out.
    """
    merged: Sums = {}
    for share in shares:
        for group, entries in share.items():
            for name, (total, count) in entries.items():
                pair = merged.setdefault(group, {}).setdefault(name, [0.0, 0.0])
                pair[0] += total
                pair[1] += count
    result = _errors(merged.get("total", {}))
    result["per_element"] = {
        symbol: {FORCES_MAE: total / count, "n_atoms": int(count)}
        for symbol, (total, count) in sorted(merged.get("per_element", {}).items())
        if count
    }
    by_source: dict[str, dict[str, list[float]]] = {}
    for name, pair in sorted(merged.get("per_source", {}).items()):
        source, quantity = name.rsplit("\n", 1)
        by_source.setdefault(source, {})[quantity] = pair
    result["per_source"] = {s: _errors(sums) for s, sums in by_source.items()}
    left_out = merged.get("left_out", {}).get("frames", [0.0, 0.0])
    result["n_left_out"] = int(left_out[1])
    return result


def _errors(sums: Mapping[str, list[float]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: total / count
        for name, (total, count) in sums.items()
        if count and name != "structures"
    }
    found["n_structures"] = int(sums.get("structures", [0.0, 0.0])[1])
    return found


def _add(
    sums: Sums, derivatives: Derivatives, batch: Batch, sources: list[str]
) -> None:
    def add(group: str, name: str, total: float, count: float) -> None:
        pair = sums[group].setdefault(name, [0.0, 0.0])
        pair[0] += total
        pair[1] += count

    for name, (rows, mask) in absolute_errors(derivatives, batch).items():
        for source, error, known in zip(
            sources, rows.tolist(), mask.tolist(), strict=True
        ):
            if known:
                add("total", name, error, 1)
                add("per_source", f"{source}\n{name}", error, 1)
    for source in sources:
        add("total", "structures", 0, 1)
        add("per_source", f"{source}\nstructures", 0, 1)
    found = residuals(derivatives, batch)
    if "forces" not in found:
        return
    difference, known = found["forces"]
    known_atoms = known[batch[keys.STRUCTURE_INDEX]]
    errors = difference.abs().mean(dim=1)[known_atoms]
    numbers = batch[keys.ATOMIC_NUMBERS][known_atoms]
    for number in numbers.unique().tolist():
        chosen = errors[numbers == number]
        symbol = chemical_symbols[number]
        add("per_element", symbol, float(chosen.sum()), len(chosen))


def _ase_derivatives(
    calculator: Any, frames: UpstreamFrames, indices: list[int]
) -> Derivatives:
    """Energy, forces and, where there is one, the stress of an ASE calculator."""
    energies, forces, stresses = [], [], []
    for index in indices:
        record = frames.record(index)
        atoms = ase.Atoms(
            numbers=record.atomic_numbers,
            positions=record.positions,
            cell=record.cell,
            pbc=record.pbc,
        )
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
        try:
            stresses.append(atoms.get_stress(voigt=False))
        except (PropertyNotImplementedError, ValueError):
            stresses.append(None)
    whole = all(stress is not None for stress in stresses)
    return Derivatives(
        energy=torch.tensor(np.array(energies, dtype=np.float64)),
        forces=torch.tensor(np.concatenate(forces), dtype=torch.float64),
        stress=torch.tensor(np.array(stresses)) if whole else None,
    )
