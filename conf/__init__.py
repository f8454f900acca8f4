"""Hydra configuration of pft_lightning, importable as ``pft_lightning.conf``."""
