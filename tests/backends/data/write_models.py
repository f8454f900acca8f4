"""Write ``mace_e3nn_<version>.model``: a MACE network pickled under this e3nn.

Beside it, the same in portable form, ``mace_e3nn_<version>.safetensors``.

Run it once in an environment with e3nn 0.4.4 and once in one with 0.6, from this
folder: ``python write_models.py``. The numbers beside the model are MACE's own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from mace.calculators import MACECalculator


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))


def main() -> None:
    import e3nn
    from models import BASE, build_mace

    from pft_lightning import load_model
    from pft_lightning.testing import build_tiny_crystals

    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    BASE.update(max_ell=1, hidden_irreps="2x0e+2x1o", radial_MLP=[8])
    path = HERE / f"mace_e3nn_{e3nn.__version__}.model"
    torch.save(build_mace("scale_shift"), path)
    load_model(path).save(path.with_suffix(".safetensors"))
    atoms = build_tiny_crystals([11, 17], BASE["r_max"])["small"]
    atoms.calc = MACECalculator(str(path), device="cpu", default_dtype="float64")
    numbers = {
        "energy": float(atoms.get_potential_energy()),
        "forces": atoms.get_forces().tolist(),
        "stress": atoms.get_stress().tolist(),
    }
    path.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
