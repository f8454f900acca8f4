"""What building a store did: counts, skips, sizes."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from pft_lightning.data.sources import skip_lines
from pft_lightning.data.store.volumes import volume_warnings
from pft_lightning.physics.force_constants import ROUND_OFF


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """Result of building a store.

    Attributes:
        n_structures: in the store.
        n_read: read now; the others were there from an earlier, same build.
        skipped: (source, reason) for each structure that could not be used.
        cutoff: of the cached graphs, Å.
        n_bytes: size of the data file.
        n_atoms: of all structures together.
        n_edges: of all graphs together.
        seconds: that this build took.
        removed: for "acoustic_sum_rule", "permutation", "translation" and, of
            molecules, "rotation", the largest asymmetry that was symmetrised away,
            eV/Å², and the structure it was in.
        units: for each kind of units and what told them, the number of structures.
        warnings: what was left out of structures that are in the store, and what
            makes their labels doubtful.
    """

    n_structures: int
    n_read: int
    skipped: tuple[tuple[str, str], ...]
    cutoff: float
    n_bytes: int
    n_atoms: int
    n_edges: int
    seconds: float
    removed: dict[str, tuple[float, str]]
    units: dict[str, int]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PrepareReport:
        """Rebuild from ``to_dict``, JSON in between."""
        values = dict(values)
        values["skipped"] = tuple((str(s), str(r)) for s, r in values["skipped"])
        values["removed"] = {
            k: (float(v), str(n)) for k, (v, n) in values["removed"].items()
        }
        values["warnings"] = tuple(map(str, values.get("warnings", ())))
        return cls(**values)

    def summary(self) -> str:
        """Say all of it in a few lines."""
        count = max(self.n_structures, 1)
        lines = [
            f"{self.n_structures} structures ({self.n_read} read now), "
            f"{self.n_atoms / count:.1f} atoms and {self.n_edges / count:.0f} edges "
            f"(cutoff {self.cutoff:g} Å) on average, {self.n_bytes / 1e6:.1f} MB, "
            f"{self.seconds:.1f} s",
        ]
        lines += [f"units {units}: {n}" for units, n in sorted(self.units.items())]
        if self.removed:
            parts = [
                f"{rule.replace('_', ' ')} {_size(value, name)}"
                for rule, (value, name) in self.removed.items()
            ]
            lines.append("largest asymmetry removed, eV/Å²: " + ", ".join(parts))
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([*lines, *skip_lines(self.skipped)])


def _size(value: float, name: str) -> str:
    """What was removed and where; round-off says nothing of a structure."""
    return "0" if value < ROUND_OFF else f"{value:.2g} ({name})"


def build_report(
    entries: list[dict[str, Any]],
    skipped: list[tuple[str, str]],
    *,
    n_read: int,
    cutoff: float,
    n_bytes: int,
    seconds: float,
) -> PrepareReport:
    """Sum up the index entries of a store."""
    removed: dict[str, tuple[float, str]] = {}
    for rule in ("acoustic_sum_rule", "permutation", "translation", "rotation"):
        values = [
            (e["removed"][rule], e["name"]) for e in entries if rule in e["removed"]
        ]
        if values:
            removed[rule] = max(values)
    return PrepareReport(
        n_structures=len(entries),
        n_read=n_read,
        skipped=tuple(skipped),
        cutoff=cutoff,
        n_bytes=n_bytes,
        n_atoms=sum(entry["n_atoms"] for entry in entries),
        n_edges=sum(entry["n_edges"] for entry in entries),
        seconds=seconds,
        removed=removed,
        units=dict(Counter(entry["units"] for entry in entries)),
        warnings=(
            *(f"{e['name']}: {e['notes']}" for e in entries if e.get("notes")),
            *volume_warnings(entries),
        ),
    )
