"""How the callback for ``nequip-train`` sees the network of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import ase.io
import lightning
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from pft_lightning import keys
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import ConfigError
from pft_lightning.graphs import build_batch, build_data, build_graph
from pft_lightning.integrations.nequip.term import energy_model


pytest.importorskip("nequip", reason="NequIP is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of NequIP, Lightning, torch

sys.path.insert(0, str(Path(__file__).parent))

from nequip_models import MODEL, write_checkpoint  # noqa: E402


CUTOFFS = {"Na": 3.0, "Cl": {"Na": 3.6, "Cl": 4.2}}


@pytest.fixture(scope="module")
def crystal() -> Atoms:
    """Smaller than the cutoff, off its symmetric place, partly outside the cell."""
    atoms = bulk("NaCl", "rocksalt", 5.2).repeat((1, 1, 2))
    atoms.rattle(0.1, seed=3)
    atoms.positions[0] -= 4.0
    return atoms


@pytest.fixture(scope="module", params=["one cutoff", "a cutoff per pair"])
def run(request, tmp_path_factory, crystal):
    """A network, and the transforms that stand before it in its configuration."""
    from nequip.data.transforms import (
        ChemicalSpeciesToAtomTypeMapper,
        NeighborListTransform,
    )

    from pft_lightning.backends.nequip.files import nequip_state

    cutoffs = CUTOFFS if request.param == "a cutoff per pair" else None
    folder = tmp_path_factory.mktemp("run")
    labelled = crystal.copy()
    labelled.calc = SinglePointCalculator(
        labelled, energy=0.0, forces=np.zeros((len(labelled), 3))
    )
    ase.io.write(folder / "frames.xyz", labelled, format="extxyz")
    with nequip_state():
        write_checkpoint(
            folder / "model.ckpt", folder / "frames.xyz", per_edge_type_cutoff=cutoffs
        )
        transforms = [
            ChemicalSpeciesToAtomTypeMapper(model_type_names=MODEL["type_names"]),
            NeighborListTransform(
                r_max=MODEL["r_max"],
                per_edge_type_cutoff=cutoffs,
                type_names=MODEL["type_names"],
            ),
        ]
    return load_model(folder / "model.ckpt"), transforms


def through_transforms(atoms: Atoms, transforms) -> dict[str, torch.Tensor]:
    from nequip.data import from_ase

    from pft_lightning.backends.nequip.files import nequip_state

    with nequip_state():
        torch.set_default_dtype(torch.float64)
        data = from_ase(atoms)
        for transform in transforms:
            data = transform(data)
    return data


def edges(index: torch.Tensor, shifts: torch.Tensor) -> set[tuple[int, ...]]:
    rows = torch.cat([index.T, shifts.round().to(index.dtype)], dim=1)
    return set(map(tuple, rows.tolist()))


def test_phonons_reach_the_network_as_through_the_transforms_of_the_run(run, crystal):
    """The same edges and types, the forces, and the products of their derivative."""
    model, transforms = run
    graph = build_graph(crystal.positions, crystal.cell.array, crystal.pbc, 4.5)
    batch = build_batch(
        [
            build_data(
                crystal.numbers,
                crystal.positions,
                crystal.cell.array,
                crystal.pbc,
                graph,
            )
        ]
    )
    prepared = model.prepare(batch)
    theirs = through_transforms(crystal, transforms)
    ours = edges(prepared[keys.EDGE_INDEX], prepared[keys.EDGE_SHIFTS])
    assert ours == edges(theirs["edge_index"], theirs["edge_cell_shift"])
    assert len(ours) > 20
    types = model._type_index[prepared[keys.ATOMIC_NUMBERS]]
    assert torch.equal(types, theirs["atom_types"].flatten())

    def forces(displacement: np.ndarray) -> np.ndarray:
        moved = crystal.copy()
        moved.positions += displacement
        data = through_transforms(moved, transforms)
        return model.network(data)["forces"].detach().numpy()

    tangent = np.random.default_rng(0).standard_normal((len(crystal), 1, 3))
    found = model.derivatives(batch, tangents=torch.from_numpy(tangent))
    still = np.zeros((len(crystal), 3))
    # The same operations in another order.
    assert np.abs(found.forces.detach().numpy() - forces(still)).max() < 1e-12
    step = 1e-4 * tangent[:, 0]
    expected = (forces(-step) - forces(step)) / 2e-4
    product = found.hvp.detach().numpy()[:, 0]
    # A step of 1e-4 Å: its square times a fourth derivative, and rounding over it.
    assert np.abs(product - expected).max() < 1e-6 * np.abs(expected).max()


def test_the_hessian_term_goes_past_the_compiled_network(crystal):
    """``compile_mode: compile`` compiles for frames, and has no second derivative."""
    from nequip.model import NequIPGNNModel

    from pft_lightning.backends.nequip.files import nequip_state
    from pft_lightning.backends.nequip.model import NequIPModel

    settings = {key: value for key, value in MODEL.items() if key != "_target_"}
    graph = build_graph(crystal.positions, crystal.cell.array, crystal.pbc, 4.5)
    batch = build_batch(
        [
            build_data(
                crystal.numbers,
                crystal.positions,
                crystal.cell.array,
                crystal.pbc,
                graph,
            )
        ]
        * 2
    )
    tangents = np.random.default_rng(0).standard_normal((2 * len(crystal), 1, 3))
    products = []
    for mode in ("eager", "compile"):
        with nequip_state():
            network = NequIPGNNModel(compile_mode=mode, **settings)
        model = NequIPModel(network)
        hvp = model.derivatives(batch, tangents=torch.from_numpy(tangents)).hvp
        products.append(hvp.detach())
    assert type(network).__name__ == "CompileGraphModel"
    assert network._compiled_cache == ({},)
    assert torch.equal(*products)


def test_a_module_that_takes_its_own_steps_is_refused():
    """It would leave the Hessian term out of its gradients without a word."""
    from nequip.train import ConFIGLightningModule

    module = ConFIGLightningModule.__new__(ConFIGLightningModule)
    lightning.LightningModule.__init__(module)
    module.automatic_optimization = False
    with pytest.raises(ConfigError, match="ConFIGLightningModule takes its optimiser"):
        energy_model(module)


def test_a_module_with_several_networks_is_refused():
    from nequip.train import NequIPLightningModule

    module = NequIPLightningModule.__new__(NequIPLightningModule)
    lightning.LightningModule.__init__(module)
    module.model = torch.nn.ModuleDict(
        {"student": torch.nn.Identity(), "teacher": torch.nn.Identity()}
    )
    with pytest.raises(ConfigError, match=r"several networks \(student, teacher\)"):
        energy_model(module)


def test_a_nequip_that_is_too_old_is_refused_with_the_version_to_install(monkeypatch):
    from pft_lightning.integrations.nequip import options

    options.check_version()
    for found in ("0.6.2", "0.17.1", "0.19.0"):
        monkeypatch.setattr(options.metadata, "version", lambda _, v=found: v)
        with pytest.raises(ConfigError, match=f"nequip {found} .*need 0.19.1 or later"):
            options.check_version()
    for found in ("0.19.1", "0.20.0", "1.0"):
        monkeypatch.setattr(options.metadata, "version", lambda _, v=found: v)
        options.check_version()
