"""Trainings and exports: what a run is, what it writes, where it came from."""
