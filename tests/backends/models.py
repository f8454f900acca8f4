"""Tiny random MACE networks, built by MACE itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch


BASE = {
    "r_max": 4.5,
    "num_bessel": 4,
    "num_polynomial_cutoff": 5,
    "max_ell": 2,
    "first": "RealAgnosticResidualInteractionBlock",
    "later": "RealAgnosticResidualInteractionBlock",
    "hidden_irreps": "4x0e+4x1o",
    "correlation": 2,
    "heads": None,
}
# Each differs from the base in what its name says.
VARIANTS = {
    "scale_shift": {},
    "heads": {"heads": ["pt_head", "Default"]},
    "no_scale_zbl_agnesi": {
        "class": "MACE",
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "first": "RealAgnosticInteractionBlock",
    },
    "density_orders": {
        "first": "RealAgnosticDensityInteractionBlock",
        "later": "RealAgnosticDensityResidualInteractionBlock",
        "correlation": [3, 2],
        "max_ell": 3,
    },
    "nonlinear": {
        "first": "RealAgnosticResidualNonLinearInteractionBlock",
        "later": "RealAgnosticResidualNonLinearInteractionBlock",
        "apply_cutoff": False,
        "edge_irreps": "4x0e+4x1o",
        "use_last_readout_only": True,
        "keep_last_layer_irreps": True,
        "radial_MLP": [16, 16],
    },
}


def build_mace(
    variant: str,
    dtype: torch.dtype = torch.float64,
    atomic_numbers: tuple[int, ...] = (11, 14, 17),
    **changes: Any,
) -> torch.nn.Module:
    """A network as ``mace_run_train`` would build it; by default for Na, Si and Cl."""
    from mace import modules  # first: importing e3nn 0.4.4 alone fails
    from e3nn import o3  # isort: skip

    options = {**BASE, **VARIANTS[variant], **changes}
    kind = options.pop("class", "ScaleShiftMACE")
    for key in ("hidden_irreps", "edge_irreps"):
        if key in options:
            options[key] = o3.Irreps(options[key])
    classes = modules.interaction_classes
    energies = -1.0 - np.arange(len(atomic_numbers))
    n_heads = len(options["heads"] or [0])
    if kind == "ScaleShiftMACE":
        options["atomic_inter_scale"] = np.linspace(0.8, 0.9, n_heads)
        options["atomic_inter_shift"] = np.linspace(0.1, 0.2, n_heads)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return getattr(modules, kind)(
                interaction_cls_first=classes[options.pop("first")],
                interaction_cls=classes[options.pop("later")],
                num_interactions=2,
                num_elements=len(atomic_numbers),
                MLP_irreps=o3.Irreps("8x0e"),
                atomic_energies=np.array([energies] * n_heads),
                avg_num_neighbors=12.0,
                atomic_numbers=list(atomic_numbers),
                gate=torch.nn.functional.silu,
                **options,
            )
    finally:
        torch.set_default_dtype(before)


def write_variants(folder: Path) -> dict[str, Path]:
    """``.model`` files as MACE's training writes them; one of them in float32."""
    paths = {name: folder / f"{name}.model" for name in (*VARIANTS, "float32")}
    for name in VARIANTS:
        torch.save(build_mace(name), paths[name])
    torch.save(build_mace("scale_shift", torch.float32), paths["float32"])
    return paths
