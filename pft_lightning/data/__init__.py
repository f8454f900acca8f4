"""Phonon and upstream data: reading, storing, batching."""
