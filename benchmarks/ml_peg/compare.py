"""An evaluation with ``protocol=ml_peg`` beside ML-PEG's own functions.

Relaxation, displacements and force constants of a potential are made by ``ml_peg``
(pip install --no-deps ml-peg==0.7.0), and its scores are taken as it takes them; what
``pft-evaluate`` wrote of the same files is held against them.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase.constraints import FixSymmetry
from ase.optimize import FIRE
from phonopy import Phonopy
from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath
from tqdm import tqdm

import pft_lightning as pft
from pft_lightning.backends.calculator import Calculator
from pft_lightning.evaluation.bands import kelvin_per_thz
from pft_lightning.evaluation.force_constants import in_float64
from pft_lightning.evaluation.reference import list_materials
from pft_lightning.runs.folder import collect_versions


# Column of per_material.csv -> score of ML-PEG.
SCORES = {
    "band_max_error_K": "ω_max, K",
    "band_mean_error_K": "ω_avg, K",
    "band_min_error_K": "ω_min, K",
    "band_mae_K": "path, K",
    "entropy_error": "S, J/K/mol",
    "free_energy_error": "F, kJ/mol",
    "heat_capacity_error": "C_V, J/K/mol",
}


def scores(reference: Phonopy, calculator: Calculator) -> dict[str, float]:
    """What ML-PEG finds of a potential on one material."""
    # Only for those who have it.
    from ml_peg.calcs.bulk_crystal.phonons import phonons_utils as theirs

    path = get_band_qpoints_by_seekpath(
        reference.primitive, npoints=101, is_const_interval=True
    )
    atoms = theirs.phonopy_to_ase_atoms(reference)
    relaxed = atoms.copy()
    relaxed.calc = calculator
    relaxed.set_constraint(FixSymmetry(relaxed))
    FIRE(relaxed, logfile=None).run(fmax=0.005, steps=1000)
    phonon = theirs.init_phonopy_from_ref(
        atoms=relaxed,
        fc2_supercell=atoms.info["fc2_supercell"],
        primitive_matrix=atoms.info["primitive_matrix"],
        displacement_dataset=_displacements(reference),
    )
    theirs.get_fc2_and_freqs(phonon, calculator)
    bands, thermal = zip(
        *(_values(one, path) for one in (phonon, reference)), strict=True
    )
    scale = kelvin_per_thz()
    values = [scale * abs(f(bands[0]) - f(bands[1])) for f in (np.max, np.mean, np.min)]
    values.append(scale * np.abs(bands[0] - bands[1]).mean())
    values += list(np.abs(thermal[0] - thermal[1]))
    return dict(zip(SCORES, map(float, values), strict=True))


def _displacements(reference: Phonopy) -> Any:
    """Those that phonopy makes when it is asked, as in the MDR database."""
    phonon = reference.replicate()
    phonon.generate_displacements(distance=0.01)
    return phonon.dataset


def _values(phonon: Phonopy, path: Any) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies along the path, and S, F and C_V at 300 K."""
    qpoints, labels, connections = path
    phonon.run_band_structure(qpoints, labels=labels, path_connections=connections)
    frequencies = np.concatenate(phonon.band_structure.frequencies)
    phonon.run_mesh([20, 20, 20])
    phonon.run_thermal_properties(temperatures=[0, 75, 150, 300, 600])
    found = phonon.thermal_properties
    lists = (found.entropy, found.free_energy, found.heat_capacity)
    return frequencies, np.array([values[3] for values in lists])


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="of the potential")
    parser.add_argument("phonons", help="files of the evaluation")
    parser.add_argument("evaluation", type=Path, help="folder of pft-evaluate")
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    calculator = Calculator(in_float64(pft.load_model(options.checkpoint)))
    rows = []
    for material in tqdm(list_materials(options.phonons)):
        record = options.evaluation / "materials" / f"{material.name}.json"
        ours = json.loads(record.read_text())["models"]["model"]
        reference = material.read()
        # The files that ML-PEG downloads hold no Born charges.
        reference.nac_params = None
        found = scores(reference, calculator)
        rows.append(
            {"name": material.name}
            | {name: {"ours": ours[name], "ml_peg": found[name]} for name in SCORES}
        )
    print(f"| | {' | '.join(SCORES.values())} |\n|{'---|' * (len(SCORES) + 1)}")
    for row in rows:
        pairs = (f"{row[n]['ours']:.5g} ({row[n]['ml_peg']:.5g})" for n in SCORES)
        print(f"| {row['name']} | {' | '.join(pairs)} |")
    worst = {
        name: max(abs(row[name]["ours"] - row[name]["ml_peg"]) for row in rows)
        for name in SCORES
    }
    print("largest difference:", worst)
    if options.out:
        content = {
            "command": f"compare.py {Path(options.checkpoint).name}",
            "versions": collect_versions() | {"ml-peg": "0.7.0"},
            "largest_difference": worst,
            "rows": rows,
        }
        options.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
