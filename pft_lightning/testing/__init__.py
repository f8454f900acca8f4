"""Checks that every backend must pass; use them for a backend of your own.

``check_backend_conformance(model, device="cuda")`` runs them all on tiny crystals,
raises ``AssertionError`` naming the check and the number, and returns the numbers.
"""

from pft_lightning.backends.pair import PairPotential
from pft_lightning.graphs import build_crystal_batch
from pft_lightning.testing.conformance import (
    TOLERANCES,
    Tolerances,
    build_tiny_crystals,
    check_backend_conformance,
)
from pft_lightning.testing.differences import compute_richardson_derivative


__all__ = [
    "TOLERANCES",
    "PairPotential",
    "Tolerances",
    "build_crystal_batch",
    "build_tiny_crystals",
    "check_backend_conformance",
    "compute_richardson_derivative",
]
