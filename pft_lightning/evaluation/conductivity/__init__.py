"""Lattice thermal conductivity of potentials, compared with DFT mode by mode."""
