"""Phonon structures on disk: build a store once, stream from it in training.

A store is a directory with one data file: compact float64 force constants and the
neighbour list of each structure, which never moves.
"""

from __future__ import annotations

from pft_lightning.data.store.building import build_store
from pft_lightning.data.store.cache import cached_store, choose_cache
from pft_lightning.data.store.reading import PhononStore
from pft_lightning.data.store.report import PrepareReport


__all__ = [
    "PhononStore",
    "PrepareReport",
    "build_store",
    "cached_store",
    "choose_cache",
]
