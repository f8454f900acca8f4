from __future__ import annotations

from dataclasses import replace

from pft_lightning.data.store.report import PrepareReport


REPORT = PrepareReport(
    n_structures=2,
    n_read=2,
    skipped=(),
    cutoff=6.0,
    n_bytes=1,
    n_atoms=4,
    n_edges=8,
    seconds=0.1,
    removed={},
    units={},
)


def test_a_structure_is_named_for_what_it_breaks_and_not_for_round_off() -> None:
    removed = {"acoustic_sum_rule": (6e-15, "C"), "permutation": (0.0013, "Si")}
    lines = replace(REPORT, removed=removed).summary().splitlines()
    assert lines[1] == (
        "largest asymmetry removed, eV/Å²: acoustic sum rule 0, permutation 0.0013 (Si)"
    )
