"""Tiny random SevenNet networks, in the files that SevenNet's training writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


ELEMENTS = (11, 14, 17)
XPLOR = {"cutoff_function_name": "XPLOR"}
MODEL = {
    "cutoff": 4.5,
    "channel": 6,
    "lmax": 2,
    "num_convolution_layer": 2,
    "weight_nn_hidden_neurons": [8],
    "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 4},
    "cutoff_function": XPLOR | {"cutoff_on": 3.7},
    "self_connection_type": "linear",
    "conv_denominator": 12.0,
    "shift": [-1.0, -3.0, -2.0],
    "scale": [1.0, 0.5, 1.5],
}
MODALITIES = {
    "use_modality": True,
    "_modal_map": {"PBE": 0, "R2SCAN": 1},
    "_number_of_modalities": 2,
    "use_modal_node_embedding": True,
    "use_modal_self_inter_intro": True,
    "use_modal_self_inter_outro": True,
    "use_modal_output_block": True,
    "use_modal_wise_shift": True,
    "use_modal_wise_scale": False,
    "shift": [[-1.0, -3.0, -2.0], [-5.0, -7.0, -6.0]],
}
# Each differs from the others in what its name says.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "parity_nequip": {
        "is_parity": True,
        "lmax": 1,
        "self_connection_type": "nequip",
        "cutoff_function": {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6},
        "use_bias_in_linear": True,
        "act_radial": "ssp",
    },
    "network_readout": {
        "readout_as_fcn": True,
        "readout_fcn_hidden_neurons": [5],
        "readout_fcn_activation": "silu",
        "_normalize_sph": False,
        "shift": -2.0,
        "scale": 1.5,
    },
    "modalities": MODALITIES,
}


def config_of(elements: tuple[int, ...] = ELEMENTS, **options: Any) -> dict[str, Any]:
    """Configuration as SevenNet completes it."""
    import sevenn
    from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG

    places = {z: i for i, z in enumerate(reversed(elements))}
    described = {
        "version": sevenn.__version__,
        "_model_type": "E3_equivariant_model",
        "_type_map": places,
        "_number_of_species": len(places),
    }
    defaults = DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG
    return {**defaults, **described, **MODEL, **options}


def write_checkpoint(path: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """What SevenNet's trainer writes of a network that was not trained."""
    from sevenn.model_build import build_E3_equivariant_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_E3_equivariant_model(config)
    content = {
        "model_state_dict": network.state_dict(),
        "optimizer_state_dict": {},
        "scheduler_state_dict": {},
        "config": config,
        "epoch": 3,
        "time": "2026-01-01 00:00",
        "hash": "0" * 32,
    }
    torch.save(content, path)
    return path
