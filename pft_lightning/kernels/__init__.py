"""Fused messages of convolutions in C, on tensors."""
