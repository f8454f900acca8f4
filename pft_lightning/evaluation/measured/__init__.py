"""Potentials beside what was measured of the modes of crystals."""
