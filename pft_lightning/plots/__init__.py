"""Figures of phonons and of evaluations, and the report of an evaluation folder."""
