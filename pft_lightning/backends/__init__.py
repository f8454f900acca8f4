"""Potentials behind one interface; only their modules import MACE or NequIP."""
