"""What the checks of a visit share: where things are, how large, and what was found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


class Skip(Exception):
    """A check cannot be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work the checks do.

    Attributes:
        cells: conventional silicon cells along each axis, of an exactness check.
        crystals: of a conformance check, of ``pft_lightning.testing``.
        cost: sizes for ``hvp_cost``, atoms or ATOMSxBATCH; the last is the paper's
            batch, of 16 supercells and about 60,000 edges.
        recorded: crystals in each batch whose steps are recorded.
        repeats: of a step that is timed.
        phonons: structures of a phonon batch in short trainings.
        upstream: frames of an upstream batch there.
        steps: of a short training; three checkpoints are written.
        pace_s: longest of each training whose pace is measured, s.
        pace_steps: the same in steps.
        validation: batches of each validation there, or the share of all.
    """

    cells: int
    crystals: tuple[str, ...]
    cost: tuple[str, ...]
    recorded: tuple[int, ...]
    repeats: int
    phonons: int
    upstream: int
    steps: int
    pace_s: int
    pace_steps: int
    validation: int | float


FULL = Sizes(
    cells=2,
    crystals=("small", "large", "molecule"),
    cost=("64", "512", "80x16"),
    recorded=(1, 16),
    repeats=10,
    phonons=4,
    upstream=8,
    steps=12,
    pace_s=60,
    pace_steps=100_000,
    validation=1.0,
)
TINY = Sizes(
    cells=1,
    crystals=("small",),
    cost=("8", "8x2"),
    recorded=(1, 2),
    repeats=1,
    phonons=1,
    upstream=2,
    steps=6,
    pace_s=60,
    pace_steps=3,
    validation=1,
)


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit, as a check sees it.

    Attributes:
        device: "cuda" or "cpu".
        pack: what was brought along: models, data, reference numbers.
        work: for files that stay here.
        rows: file that the rows of all checks go to, a line each.
        sizes: how much work to do.
        check: name of the check that reports.
        threads: for what it computes on the CPU.
        patience: factor of all limits, for a slow machine.
    """

    device: str
    pack: Path
    work: Path
    rows: Path
    sizes: Sizes
    check: str = ""
    threads: int = 1
    patience: float = 1.0

    @property
    def on_gpu(self) -> bool:
        """Whether the device is one of CUDA's."""
        return self.device.startswith("cuda")

    def report(
        self,
        what: str,
        value: float | str,
        unit: str = "",
        *,
        bound: float | None = None,
        goal: float | None = None,
        **numbers: Any,
    ) -> None:
        """Keep a number at once, so that it outlives what comes after.

        Args:
            what: is measured.
            value: of it.
            unit: of the value.
            bound: largest value that is right; a check fails above it.
            goal: largest value that is hoped for.
            numbers: anything else that belongs to it.
        """
        row = {"check": self.check, "what": what, "value": value, "unit": unit}
        if bound is not None:
            row |= {"bound": bound, "holds": _within(value, bound)}
        if goal is not None:
            row |= {"goal": goal, "met": _within(value, goal)}
        line = json.dumps(row | numbers)
        print(line, flush=True)
        with self.rows.open("a") as file:
            file.write(line + "\n")

    def model(self, name: str) -> Path:
        """File of a model of the pack.

        Args:
            name: of the file, or its stem; JAX's files need their ending.

        Raises:
            Skip: it was not brought along.
        """
        endings = ("", ".pt", ".model", ".ckpt", ".pth")
        return self._packed("models", *(f"{name}{ending}" for ending in endings))

    def data(self, name: str) -> Path:
        """Phonons or frames of the pack: a ready store before what it is made from.

        Raises:
            Skip: they were not brought along.
        """
        return self._packed("data", f"{name}.store", name, f"{name}.xyz*")

    def reference(self, name: str) -> Path | None:
        """Numbers of the CPU for a model and the cells, if they were brought along."""
        path = self.pack / "reference" / f"{name}-{self.sizes.cells}.pt"
        return path if path.exists() else None

    def _packed(self, folder: str, *patterns: str) -> Path:
        for pattern in patterns:
            found = sorted(self.pack.joinpath(folder).glob(pattern))
            if found:
                return found[0].resolve()
        raise Skip(f"{folder}/{patterns[0]} is not in {self.pack}")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows so far; a last line that was cut is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def describe(row: dict[str, Any]) -> str:
    """A row in some words, for a table."""
    value = row["value"]
    shown = value if isinstance(value, str) else f"{value:.3g}"
    text = f"{row['what']} {shown} {row['unit']}".strip()
    if "holds" in row:
        text += f" ({'<=' if row['holds'] else 'NOT <='} {row['bound']:g})"
    if "met" in row:
        text += f" (goal {row['goal']:g}{'' if row['met'] else ', NOT met'})"
    return text


def to_json(sizes: Sizes) -> dict[str, Any]:
    """Sizes for a record."""
    return asdict(sizes)


def _within(value: float | str, limit: float) -> bool:
    """False for a value that is no number."""
    return not isinstance(value, str) and value <= limit
