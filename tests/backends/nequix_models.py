"""The configuration of a tiny Nequix network."""

from __future__ import annotations


ELEMENTS = [11, 14, 17]
CONFIG = {
    "atomic_numbers": ELEMENTS,
    "atom_energies": {"11": -1.0, "14": -3.0, "17": -2.0},
    "hidden_irreps": "8x0e + 4x1o + 2x2e",
    "lmax": 2,
    "cutoff": 4.5,
    "n_layers": 3,
    "radial_basis_size": 4,
    "radial_mlp_size": 8,
    "radial_mlp_layers": 2,
    "radial_polynomial_p": 6.0,
    "mlp_init_scale": 4.0,
    "avg_n_neighbors": 14.0,
    "shift": 0.1,
    "scale": 0.8,
    "layer_norm": True,
    "index_weights": False,
}
