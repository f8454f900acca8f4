"""Structures along soft modes, for DFT: what teaches potentials their wells."""

from __future__ import annotations

from collections.abc import Sequence

import ase

from pft_lightning.evaluation.soft_modes.phases import Generation


def path_frames(generations: Sequence[Generation], name: str) -> list[ase.Atoms]:
    """Structures along all wells, and those that relaxations ended in.

    ``info`` of each has ``material``, ``path`` (generation, q-point and direction),
    ``amplitude`` (Å AMU^(1/2); none of ends), ``model_energy`` (eV, of the cell,
    relative to the undistorted one; of the potential, so no label to train on) and
    ``origin``, which says the same in words.

    Args:
        generations: of a crystal and a potential.
        name: of the crystal.
    """
    frames: list[ase.Atoms] = []
    for number, generation in enumerate(generations):
        paths = {}
        for place, well in enumerate(generation.wells):
            q_point = ",".join(f"{x:.4g}" for x in well.direction.mode.q_point)
            paths[id(well)] = path = f"{number}:{q_point}:{place}"
            for amplitude, energy in zip(well.amplitudes, well.energies, strict=True):
                # The undistorted crystal stands once, whatever its cell.
                if amplitude or (place == 0 and number == 0):
                    atoms = well.cell.at(amplitude)
                    atoms.info |= {
                        "material": name,
                        "path": path,
                        "amplitude": float(amplitude),
                        "model_energy": float(energy * well.cell.n_cells),
                        "origin": f"{name}, soft mode {path} at {amplitude:.4g}",
                    }
                    frames.append(atoms)
        for end in generation.ends:
            if not end.error:
                atoms = end.atoms.copy()
                path = paths[id(end.well)]
                atoms.info |= {
                    "material": name,
                    "path": path,
                    "model_energy": end.energy * len(atoms),
                    "origin": f"{name}, end of soft mode {path}",
                }
                frames.append(atoms)
    return frames
