"""Measured frequencies, densities of states and thermal properties of crystals."""
