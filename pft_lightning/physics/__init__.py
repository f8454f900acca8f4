"""Tensors and arrays only: derivatives, probes, force constants."""
