"""The steps that are compared, ours and every peer's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ase
import numpy as np
from ase.build import bulk
from devices import jax_device


# Conventional cells of eight atoms: repetitions for a number of atoms.
REPEATS = {
    8: (1, 1, 1),
    16: (2, 1, 1),
    32: (2, 2, 1),
    64: (2, 2, 2),
    80: (5, 2, 1),
    128: (4, 2, 2),
    256: (4, 4, 2),
    512: (4, 4, 4),
}

Step = Callable[[], Any]


def silicon(n_atoms: int) -> ase.Atoms:
    """Diamond silicon, slightly disordered so that no gradient vanishes."""
    atoms = bulk("Si", cubic=True).repeat(REPEATS[n_atoms])
    atoms.rattle(0.03, seed=0)
    return atoms


def tangents(n_atoms: int, n_probes: int, direction: str = "column") -> np.ndarray:
    """(n_atoms, n_probes, 3): columns of the Hessian, or random signs."""
    generator = np.random.default_rng(0)
    if direction == "signs":
        return generator.choice([-1.0, 1.0], (n_atoms, n_probes, 3))
    found = np.zeros((n_atoms, n_probes, 3))
    columns = generator.choice(3 * n_atoms, n_probes, replace=False)
    found[columns // 3, np.arange(n_probes), columns % 3] = 1.0
    return found


def load(case: dict[str, Any]) -> tuple[Any, Any, Any, list[Any]]:
    """The model, a batch, directions or None, and the trained weights."""
    import torch

    import pft_lightning as pft
    from pft_lightning.graphs import build_batch, build_data, build_graph

    dtype = getattr(torch, case["dtype"])
    model = pft.load_model(case["model"], dtype=dtype, device=case["device"])
    atoms = silicon(case["atoms"])
    cell, pbc = atoms.cell.array, atoms.pbc
    graph = build_graph(atoms.positions, cell, pbc, model.cutoff)
    data = build_data(atoms.numbers, atoms.positions, cell, pbc, graph)
    batch = build_batch([data] * case["batch"]).to(case["device"])
    case["edges"] = int(batch.num_edges)
    directions = None
    if case["step"] == "hvp":
        one = tangents(len(atoms), case["probes"], case["direction"])
        directions = torch.from_numpy(np.concatenate([one] * case["batch"]))
        directions = directions.to(case["device"], dtype)
    weights = [p for p in model.parameters() if p.requires_grad]
    return model, batch, directions, weights


def _pft(case: dict[str, Any]) -> Step:
    """Our training step: loss of energies, forces, stress (and H v), and gradients."""
    import torch

    from pft_lightning.runs.memory import keep_freed_memory

    if case["device"] == "cpu":
        keep_freed_memory()  # as pft-train does
    model, batch, directions, weights = load(case)

    def step() -> Any:
        found = model.derivatives(batch, tangents=directions, engine=case["engine"])
        loss = found.energy.abs().mean() + found.stress.abs().mean()
        loss = loss + found.forces.norm(dim=-1).mean()
        if found.hvp is not None:
            loss = loss + found.hvp.abs().mean()
        return torch.autograd.grad(loss, weights, allow_unused=True)

    return step


def _pft_framework(case: dict[str, Any]) -> Step:
    """Ours by the framework's operations, without what the package compiles."""
    os.environ["PFT_LIGHTNING_COMPILE"] = "0"
    return _pft(case)


def _double_backward(case: dict[str, Any]) -> Step:
    """What any torch potential can do: autograd of E, of F, of the loss."""
    os.environ["PFT_LIGHTNING_COMPILE"] = "0"

    import torch

    from pft_lightning import keys

    model, batch, directions, weights = load(case)
    batch = model.prepare(batch)

    def step() -> Any:
        positions = batch[keys.POSITIONS].detach().requires_grad_()
        strain = positions.new_zeros(case["batch"], 3, 3).requires_grad_()
        energy = model.energy(batch, positions, strain)
        gradient, virial = torch.autograd.grad(
            energy.sum(), (positions, strain), create_graph=True
        )
        loss = energy.abs().mean() + gradient.norm(dim=-1).mean()
        loss = loss + virial.abs().mean()
        for k in range(0 if directions is None else case["probes"]):
            (hvp,) = torch.autograd.grad(
                (gradient * directions[:, k]).sum(), positions, create_graph=True
            )
            loss = loss + hvp.abs().mean() / case["probes"]
        return torch.autograd.grad(loss, weights, allow_unused=True)

    return step


def _nequix_jax(case: dict[str, Any]) -> Step:
    """The published training steps, jitted: ``nequix.train`` and ``nequix.pft``."""
    import jax

    jax.config.update("jax_default_device", jax_device(case["device"]))

    import equinox as eqx
    import jraph
    from nequix.data import atomic_numbers_to_indices, preprocess_graph
    from nequix.data import dict_to_graphstuple as to_graph
    from nequix.model import load_model
    from nequix.pft.train import loss as hvp_loss
    from nequix.train import loss as efs_loss

    if (case["dtype"], case["probes"], case["direction"]) != ("float32", 1, "column"):
        raise ValueError("the published step is float32 with one column")
    model, config = load_model(case["model"])
    atoms = silicon(case["atoms"])
    indices = atomic_numbers_to_indices(config["atomic_numbers"])
    values = preprocess_graph(atoms, indices, config["cutoff"], False)
    zeros = np.zeros((len(atoms), 3), np.float32)
    values |= {"forces": zeros, "energy": np.zeros(1, np.float32)}
    values["stress"] = np.zeros((3, 3), np.float32)
    graph = jraph.batch([to_graph(values)] * case["batch"])
    column = tangents(len(atoms), 1)[:, 0].astype(np.float32)
    nodes = dict(graph.nodes, hessian_col=np.tile(zeros, (case["batch"], 1)))
    nodes["vs"] = np.tile(column, (case["batch"], 1))
    graph = graph._replace(nodes=nodes)
    case["edges"] = int(graph.n_edge.sum())
    # The loader of the package keeps one padding graph in every batch.
    graph = jraph.pad_with_graphs(
        graph,
        int(graph.n_node.sum()) + 1,
        int(graph.n_edge.sum()) + 1,
        case["batch"] + 1,
    )
    if case["step"] == "hvp":
        loss = eqx.filter_value_and_grad(hvp_loss, has_aux=True)
        run = eqx.filter_jit(lambda model, graph: loss(model, graph))
    else:
        loss = eqx.filter_value_and_grad(efs_loss, has_aux=True)
        run = eqx.filter_jit(lambda model, graph: loss(model, graph, 20, 20, 5, "mae"))
    return lambda: jax.block_until_ready(run(model, graph))


def _nequix_torch(
    case: dict[str, Any], *, kernel: bool
) -> tuple[Any, Callable[[Any, Any], Any], Any, Any]:
    """The package's torch network, its energy, and what it is evaluated at.

    Returns:
        Trained weights, energies by positions and strain, positions, and directions.
    """
    import torch
    from nequix.data import atomic_numbers_to_indices, preprocess_graph
    from nequix.torch_impl.model import load_model

    device, n_copies = case["device"], case["batch"]
    model, config = load_model(case["model"], kernel)
    model = model.to(device)
    atoms = silicon(case["atoms"])
    indices = atomic_numbers_to_indices(config["atomic_numbers"])
    values = preprocess_graph(atoms, indices, config["cutoff"], False)
    to_torch = {
        k: torch.from_numpy(np.asarray(v)).to(device) for k, v in values.items()
    }
    copies = torch.arange(n_copies, device=device)

    def index(name: str) -> torch.Tensor:
        one = to_torch[name].long()
        return (one + len(atoms) * copies[:, None]).flatten()

    senders, receivers = index("senders"), index("receivers")
    offsets = (to_torch["shifts"] @ to_torch["cell"]).repeat(n_copies, 1)
    species = to_torch["species"].long().repeat(n_copies)
    structure = copies.repeat_interleave(len(to_torch["senders"]))
    case["edges"] = len(senders)

    def energies(positions: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
        vectors = positions[senders] - positions[receivers] + offsets
        symmetric = (strain + strain.mT) / 2
        vectors = vectors + torch.einsum("ea,eab->eb", vectors, symmetric[structure])
        found = model.node_energies(vectors, species, senders, receivers)
        return found.reshape(n_copies, -1).sum(1)

    positions = to_torch["positions"].float().repeat(n_copies, 1)
    direction = torch.from_numpy(tangents(len(atoms), 1)[:, 0]).float().to(device)
    weights = [p for p in model.parameters() if p.requires_grad]
    return weights, energies, positions, direction.repeat(n_copies, 1)


def _nequix_torch_compile(case: dict[str, Any]) -> Step:
    """``torch.compile`` of ``jvp(grad(E))`` on the package's torch network."""
    import torch

    weights, energies, positions, direction = _nequix_torch(case, kernel=False)
    strain = positions.new_zeros(case["batch"], 3, 3)

    def energy(positions: torch.Tensor) -> torch.Tensor:
        return energies(positions, strain).sum()

    def product(positions: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(torch.func.grad(energy), (positions,), (direction,))[1]

    compiled = torch.compile(product)

    def step() -> Any:
        loss = compiled(positions).abs().mean()
        return torch.autograd.grad(loss, weights, allow_unused=True)

    return step


def _nequix_openequivariance(case: dict[str, Any], kernel: bool = True) -> Step:
    """The package's torch network on kernels of OpenEquivariance, twice backward."""
    import torch

    if kernel:
        import openequivariance  # noqa: F401 -- says by itself what is missing

    weights, energies, positions, direction = _nequix_torch(case, kernel=kernel)

    def step() -> Any:
        moved = positions.detach().requires_grad_()
        strain = positions.new_zeros(case["batch"], 3, 3).requires_grad_()
        energy = energies(moved, strain)
        gradient, virial = torch.autograd.grad(
            energy.sum(), (moved, strain), create_graph=True
        )
        loss = energy.abs().mean() + gradient.norm(dim=-1).mean()
        loss = loss + virial.abs().mean()
        if case["step"] == "hvp":
            (hvp,) = torch.autograd.grad(
                (gradient * direction).sum(), moved, create_graph=True
            )
            loss = loss + hvp.abs().mean()
        return torch.autograd.grad(loss, weights, allow_unused=True)

    return step


def _mace_hessian(case: dict[str, Any]) -> Step:
    """MACE's own ``compute_hessian``: the whole matrix, no gradients to weights."""
    import torch
    from mace.calculators import MACECalculator

    torch.set_default_dtype(getattr(torch, case["dtype"]))
    calculator = MACECalculator(
        model_paths=case["model"], device=case["device"], default_dtype=case["dtype"]
    )
    atoms = silicon(case["atoms"])
    return lambda: calculator.get_hessian(atoms)


PEERS: dict[str, Callable[[dict[str, Any]], Step]] = {
    "pft": _pft,
    "pft_framework": _pft_framework,
    "double_backward": _double_backward,
    "nequix_jax": _nequix_jax,
    "nequix_torch_compile": _nequix_torch_compile,
    "nequix_openequivariance": _nequix_openequivariance,
    "mace_hessian": _mace_hessian,
}

JAX_PEERS = ("nequix_jax",)
