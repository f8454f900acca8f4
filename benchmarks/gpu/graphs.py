"""Check of recorded steps: the numbers and the time of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from steps import load, relative_error, silicon, time_step
from visit import Visit

from pft_lightning import EnergyModel, keys
from pft_lightning.graphs import build_crystal_batch
from pft_lightning.losses import HvpTarget
from pft_lightning.training.replay import ReplayedSteps
from pft_lightning.training.splitting import Work, differentiate


def rerun(
    step: Callable[[], list[torch.Tensor]],
) -> tuple[Callable[[], None], list[torch.Tensor]]:
    """Record for a CPU: what repeats a step computes it again, from the same places."""
    places = [value.clone() for value in step()]

    def replay() -> None:
        for place, value in zip(places, step(), strict=True):
            place.copy_(value)

    return replay, places


def graphs(visit: Visit) -> None:
    """Recorded steps of Nequix on other crystals than they were recorded with."""
    model = load(visit.model("nequix.pt"), "float32", visit.device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    counts = {name: torch.ones((), device=visit.device) for name in ("forces", "hvp")}
    weights = {"forces": 20.0, "hvp": 100.0}

    def evaluate(
        counts: Mapping[str, torch.Tensor], work: Sequence[Work]
    ) -> dict[str, torch.Tensor]:
        (part,) = work
        assert part.request is not None
        tangents = part.request.tangents
        found = model.derivatives(part.structures, tangents=tangents)
        assert found.forces is not None
        assert found.hvp is not None
        return {
            "forces": found.forces.abs().mean() / counts["forces"],
            "hvp": found.hvp.abs().mean() / counts["hvp"],
        }

    arguments: Any = (counts, weights, evaluate, parameters)
    for number in visit.sizes.recorded:
        _check(visit, model, number, arguments)


def _work(visit: Visit, model: EnergyModel, number: int, moved: int) -> list[Work]:
    """The same neighbours for any ``moved``, other positions and another column."""
    crystal = silicon(visit.sizes.cells)
    batch = build_crystal_batch([crystal] * number, model.cutoff)
    arranged = model.arrangement()(batch)
    arranged[keys.POSITIONS] += 0.01 * moved * torch.sin(batch[keys.POSITIONS])
    column = torch.zeros(int(batch.num_nodes), 1, 3)
    column[moved :: len(crystal), 0, moved] = 1.0
    arranged, column = arranged.to(visit.device), column.to(visit.device)
    return [Work("phonon", arranged, HvpTarget(column, 0 * column, 100.0))]


def _check(visit: Visit, model: EnergyModel, number: int, arguments: Any) -> None:
    """Numbers and times of the steps of a batch of some crystals."""
    steps = ReplayedSteps(None if visit.on_gpu else rerun)
    steps(_work(visit, model, number, 0), *arguments)
    other = _work(visit, model, number, 1)
    found, gradients = steps(other, *arguments)
    expected, others = differentiate(other, *arguments)
    # In rows of a thousand atoms terms are added in another order each time.
    for name, term in expected.items():
        error = relative_error(found[name], term)
        visit.report(f"{name} x{number}, recorded against not", error, bound=1e-6)
    error = relative_error(_flat(gradients), _flat(others))
    visit.report(f"gradient x{number}, recorded against not", error, bound=1e-5)
    visit.report(f"recordings x{number}", steps.n_recordings, bound=1)
    for name, take in (("recorded", steps), ("not recorded", differentiate)):
        handed, done = time_step(
            lambda take=take: take(other, *arguments), visit.device, visit.sizes.repeats
        )
        visit.report(f"x{number}, {name}: host", 1e3 * handed, "ms")
        visit.report(f"x{number}, {name}: step", 1e3 * done, "ms")


def _flat(gradients: list[torch.Tensor | None]) -> torch.Tensor:
    return torch.cat([x.flatten() for x in gradients if x is not None])
