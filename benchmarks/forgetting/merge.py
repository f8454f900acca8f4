"""Mix two potentials weight by weight, by what curvature and what labels rest on.

Usage: ``python merge.py BASE TUNED FRAMES CRYSTALS STRENGTH OUT``. A weight goes
p / (p + STRENGTH * f) of the way from BASE to TUNED, with p and f the information that
Hessian-vector products and energies and forces have of it, each in that of the whole
change (Fisher merging, arXiv:2111.09832).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from methods import information, squares, to_batch

import pft_lightning as pft
from pft_lightning.backends.base import EnergyModel


def products(model: EnergyModel, folder: Path, n: int) -> Iterator[torch.Tensor]:
    """Random sums of H v for random signs v, of the first crystals of a folder."""
    draw = np.random.default_rng(0)
    for file in sorted(folder.glob("*.xz"))[:n]:
        cell = pft.read_phonopy(file).supercell
        shape = (len(cell.numbers), 1, 3)
        v, r = draw.choice([-1.0, 1.0], (2, *shape))
        result = model.derivatives(
            to_batch(model, cell.numbers, cell.positions, cell.cell, [True] * 3),
            tangents=torch.tensor(v),
            forces=False,
            stress=False,
        )
        yield (result.hvp * torch.tensor(r).to(result.hvp)).sum() / len(cell.numbers)


def main() -> None:
    """Write the merged potential."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "tuned", "frames", "crystals", "strength", "out"):
        parser.add_argument(name)
    options = parser.parse_args()
    base, tuned = pft.load_model(options.base), pft.load_model(options.tuned)
    weights = list(base.parameters())
    of_curvature = squares(products(base, Path(options.crystals), 30), weights)
    of_labels = information(base, weights, options.frames, 60)
    pairs = list(zip(tuned.parameters(), weights, strict=True))
    p_all, f_all = (
        sum(
            float((i * (t - b).square()).sum())
            for i, (t, b) in zip(of, pairs, strict=True)
        )
        for of in (of_curvature, of_labels)
    )
    shares = []
    with torch.no_grad():
        for p, f, (end, start) in zip(of_curvature, of_labels, pairs, strict=True):
            share = (
                p / p_all / (p / p_all + float(options.strength) * f / f_all + 1e-30)
            )
            end.copy_(torch.lerp(start, end, share))
            shares.append(share.flatten())
    print(f"mean share {float(torch.cat(shares).mean()):.3f}")
    tuned.save(Path(options.out))


if __name__ == "__main__":
    main()
