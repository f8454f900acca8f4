"""Use model files with the tools of their own framework, in a process without us.

``python foreign.py JOB.json``: what to do with which files, in a process that cannot
import ``pft_lightning``. Numbers go to ``RESULT.json`` beside the job.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from pathlib import Path


class Blocked:
    """Finder that hides the package."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pft_lightning":
            raise ImportError("pft_lightning is blocked in this process")


def numbers(atoms, calculator) -> dict:
    atoms = atoms.copy()
    atoms.calc = calculator
    return {
        "energy": float(atoms.get_potential_energy()),
        "forces": atoms.get_forces().tolist(),
    }


def call(main, *arguments: str) -> None:
    """Run the main function of a command with these arguments."""
    kept, sys.argv = sys.argv, ["command", *arguments]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            main()
    finally:
        sys.argv = kept


def mace_calculator(atoms, file: str, dtype: str) -> dict:
    from mace.calculators import MACECalculator

    return numbers(atoms, MACECalculator(file, device="cpu", default_dtype=dtype))


def mace_eval_configs(atoms, file: str, dtype: str) -> dict:
    import ase.io
    from mace.cli import eval_configs

    configs, output = f"{file}-in.xyz", f"{file}-out.xyz"
    ase.io.write(configs, atoms)
    options = ("--configs", configs, "--output", output, "--default_dtype", dtype)
    call(eval_configs.main, "--model", file, *options)
    found = ase.io.read(output)
    return {
        "energy": float(found.info["MACE_energy"]),
        "forces": found.arrays["MACE_forces"].tolist(),
    }


def mace_create_lammps_model(atoms, file: str, dtype: str) -> dict:
    """Positions and neighbours as LAMMPS gives them, with all atoms local."""
    import torch
    from mace import data, tools
    from mace.cli import create_lammps_model
    from mace.tools import torch_geometric

    call(create_lammps_model.main, file, "--dtype", dtype)
    model = torch.jit.load(f"{file}-lammps.pt")
    torch.set_default_dtype(getattr(torch, dtype))
    table = tools.AtomicNumberTable([int(z) for z in model.atomic_numbers])
    item = data.AtomicData.from_config(
        data.config_from_atoms(atoms), z_table=table, cutoff=float(model.r_max)
    )
    batch = next(iter(torch_geometric.dataloader.DataLoader([item], batch_size=1)))
    inputs = {k: v for k, v in batch.to_dict().items() if isinstance(v, torch.Tensor)}
    inputs["positions"].requires_grad_(True)
    result = model(inputs, torch.ones(len(atoms)), False)
    return {
        "energy": float(result["total_energy_local"]),
        "forces": result["forces"].tolist(),
    }


def nequip_calculator(atoms, file: str, dtype: str) -> dict:
    import torch
    from nequip.integrations.ase import NequIPCalculator

    torch.set_default_dtype(torch.float64)
    calculator = NequIPCalculator._from_saved_model(
        file, device="cpu", chemical_species_to_atom_type_map=True
    )
    return numbers(atoms, calculator)


def nequip_package(atoms, file: str, dtype: str) -> dict:
    from nequip.scripts import package

    packaged = f"{file}.nequip.zip"
    call(lambda: package.main(["build", file, packaged]))
    return nequip_calculator(atoms, packaged, dtype)


def sevennet_calculator(atoms, file: str, modal: str) -> dict:
    from sevenn.calculator import SevenNetCalculator

    return numbers(atoms, SevenNetCalculator(file, device="cpu", modal=modal))


def nequix_calculator(atoms, file: str, dtype: str) -> dict:
    from nequix.calculator import NequixCalculator

    backend = "jax" if file.endswith(".nqx") else "torch"
    options = {"backend": backend, "use_kernel": False}
    return numbers(atoms, NequixCalculator(model_path=file, **options))


def main() -> None:
    import ase.io

    job = Path(sys.argv[1])
    results = []
    for tool, file, dtype in json.loads(job.read_text()):
        atoms = ase.io.read(job.with_name("atoms.json"))
        results.append(globals()[tool](atoms, file, dtype))
    assert not any(name.startswith("pft_lightning") for name in sys.modules)
    job.with_name("RESULT.json").write_text(json.dumps(results))


if __name__ == "__main__":
    sys.meta_path.insert(0, Blocked())
    warnings.filterwarnings("ignore")
    main()
