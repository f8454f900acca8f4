"""Which products of features and harmonics a Nequix network takes, and in what order.

Refuses an e3nn whose harmonics it cannot use.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from pft_lightning.errors import BackendUnavailableError
from pft_lightning.kernels.layout import ProductPath


_E3NN = importlib.metadata.version("e3nn")
# Harmonics of older ones run in TorchScript, whose second derivatives are wrong.
if tuple(map(int, _E3NN.split(".")[:2])) < (0, 6):
    raise BackendUnavailableError(
        f"Nequix models need e3nn>=0.6, but {_E3NN} is installed (MACE pins 0.4.4): "
        'use an environment with pip install "pft_lightning[nequix]".'
    )

from e3nn import o3  # noqa: E402


def is_supported(hidden_irreps: str, lmax: int) -> bool:
    """Whether irreps are sorted, each once, and all reached by the first layer.

    Those are scalars first, and the parities of spherical harmonics up to ``lmax``.
    Nequix's JAX form fails for others.
    """
    hidden = o3.Irreps(hidden_irreps)
    reached = o3.Irreps.spherical_harmonics(lmax)
    is_sorted = hidden == hidden.regroup()
    return bool(
        is_sorted and hidden.count("0e") and all(ir in reached for _, ir in hidden)
    )


def find_paths(
    irreps_in: o3.Irreps, irreps_out: o3.Irreps, lmax: int
) -> tuple[list[ProductPath], o3.Irreps]:
    """Products of features and harmonics in Nequix's order, and their irreps."""
    found: list[tuple[Any, int, int, int]] = []
    for source, (channels, irrep) in enumerate(irreps_in):
        for _, harmonic in o3.Irreps.spherical_harmonics(lmax):
            found += [
                (product, source, harmonic.l, channels)
                for product in irrep * harmonic
                if product in irreps_out or product == o3.Irrep(0, 1)
            ]
    found.sort(key=lambda item: item[0])  # stable: equal ones keep their order
    messages = o3.Irreps([(item[3], item[0]) for item in found]).regroup()
    places = {irrep: place for place, (_, irrep) in enumerate(messages)}
    paths = [
        ProductPath(
            source, irreps_in[source].ir.l, harmonic, places[product], product.l, n
        )
        for product, source, harmonic, n in found
    ]
    return paths, messages
