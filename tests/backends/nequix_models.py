"""A tiny random Nequix network."""

from __future__ import annotations

from pathlib import Path

import torch


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


def write_model(path: Path, **options) -> None:
    from pft_lightning.backends.nequix import files

    config = {**CONFIG, **options}
    network = files.build(config, path)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for i, number in enumerate(config["atomic_numbers"]):
            network.atom_energies[i] = config["atom_energies"][str(number)]
    files.write(path, config, network)
