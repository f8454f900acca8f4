"""Tiny random NequIP networks, in the files that NequIP's training writes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import ase.io
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols

from pft_lightning.testing import build_tiny_crystals


MODEL = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 1,
    "model_dtype": "float64",
    "type_names": ["Na", "Cl", "Si"],
    "r_max": 4.5,
    "num_layers": 2,
    "l_max": 1,
    "num_features": 8,
    "radial_mlp_width": 16,
    "avg_num_neighbors": 15.0,
    "per_type_energy_shifts": {"Na": -1.0, "Cl": -2.0, "Si": -3.0},
    "per_type_energy_scales": {"Na": 1.0, "Cl": 1.5, "Si": 0.5},
    "per_type_energy_scales_trainable": True,
}


VARIANTS = {
    "float64": {},
    "float32": {"model_dtype": "float32"},
    "cutoffs": {
        "per_edge_type_cutoff": {"Na": 3.0, "Cl": {"Na": 3.6, "Cl": 4.2}},
        "per_type_energy_scales_trainable": False,
    },
    "zbl_parity": {
        "parity": False,
        "l_max": 2,
        "pair_potential": {
            "_target_": "nequip.nn.pair_potential.ZBL",
            "chemical_species": ["Na", "Cl", "Si"],
            "units": "metal",
        },
    },
}


# Networks of the extension package nequip-allegro.
ALLEGRO = {
    "_target_": "allegro.model.AllegroModel",
    "radial_chemical_embed": {
        "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
        "num_bessels": 4,
    },
    "l_max": 2,
    "num_scalar_features": 8,
    "num_tensor_features": 4,
    "allegro_mlp_hidden_layers_width": 8,
    "readout_mlp_hidden_layers_width": 8,
    "num_features": None,
    "radial_mlp_width": None,
}
ALLEGRO_VARIANTS = {
    "coupled": ALLEGRO,
    "no_parity": {
        **ALLEGRO,
        "parity": False,
        "l_max": 1,
        "tp_path_channel_coupling": False,
        "per_type_energy_scales_trainable": False,
    },
}


def write_checkpoint(path: Path, frames: Path, **options) -> None:
    """What ``nequip-train`` writes, with an average that differs from the weights.

    Options that are None are left out.
    """
    import lightning
    from nequip.train import EMALightningModule
    from nequip.utils import get_current_code_versions

    training = {
        "_target_": "nequip.train.EMALightningModule",
        "ema_decay": 0.99,
        "model": {k: v for k, v in {**MODEL, **options}.items() if v is not None},
        "loss": {"_target_": "nequip.train.EnergyForceLoss"},
        "val_metrics": {"_target_": "nequip.train.EnergyForceMetrics"},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
    }
    names = training["model"]["type_names"]
    transforms = "nequip.data.transforms"
    data = {
        "_target_": "nequip.data.datamodule.ASEDataModule",
        "seed": 1,
        "train_file_path": str(frames),
        "val_file_path": str(frames),
        "transforms": [
            {
                "_target_": f"{transforms}.ChemicalSpeciesToAtomTypeMapper",
                "model_type_names": names,
                "chemical_species_to_atom_type_map": {n: n for n in names},
            },
            {
                "_target_": f"{transforms}.NeighborListTransform",
                "r_max": MODEL["r_max"],
            },
        ],
    }
    info = {
        "versions": get_current_code_versions(),
        "data": data,
        "trainer": {},
        "global_options": {},
        "runs": ["train"],
        "training_module": training,
    }
    module = EMALightningModule(
        **{k: v for k, v in training.items() if k != "_target_"},
        num_datasets={"train": 1, "val": 1, "test": 0, "predict": 0},
        info_dict=info,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for shift in (True, False):
            for p in module.model.parameters():
                p += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            if shift:
                module.ema.update_parameters(module.model)
    trainer = lightning.Trainer(
        max_steps=0, logger=False, accelerator="cpu", enable_checkpointing=False
    )
    trainer.strategy.connect(module)
    trainer.strategy._lightning_module = module
    trainer.save_checkpoint(path)


def package(checkpoint: Path, path: Path) -> None:
    """Run NequIP's own command, in a process that knows nothing of us."""
    code = "import sys; from nequip.scripts.package import main; main(sys.argv[1:])"
    subprocess.run(
        [sys.executable, "-c", code, "build", str(checkpoint), str(path)],
        check=True,
        capture_output=True,
        cwd=path.parent,
    )


def write_base(path: Path, frames: Path, numbers: Sequence[int]) -> Path:
    """Write a network of the given elements."""
    from pft_lightning.backends.nequip.files import nequip_state

    symbols = [chemical_symbols[number] for number in numbers]
    with nequip_state():
        write_checkpoint(
            path,
            frames,
            type_names=symbols,
            per_type_energy_shifts=dict.fromkeys(symbols, -1.0),
            per_type_energy_scales=dict.fromkeys(symbols, 1.0),
        )
    return path


def write_variants(folder: Path) -> dict[str, Path]:
    """Write checkpoints, and a package that ``nequip-package`` made of one of them."""
    paths = write_checkpoints(folder, VARIANTS)
    paths["package"] = folder / "model.nequip.zip"
    package(paths["float32"], paths["package"])
    return paths


def write_checkpoints(folder: Path, variants: dict[str, dict]) -> dict[str, Path]:
    """Write a checkpoint for each of some options, and the frames that they name."""
    from pft_lightning.backends.nequip.files import nequip_state

    frames = folder / "frames.xyz"
    atoms = build_tiny_crystals([11, 17], 4.5)["large"]
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=atoms.positions * 0)
    ase.io.write(frames, [atoms, atoms], format="extxyz")
    paths = {name: folder / f"{name}.ckpt" for name in variants}
    with nequip_state():
        for name, options in variants.items():
            write_checkpoint(paths[name], frames, **options)
    return paths
