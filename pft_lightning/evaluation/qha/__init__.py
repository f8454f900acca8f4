"""Quasi-harmonic approximation: thermal expansion and what follows from it."""
