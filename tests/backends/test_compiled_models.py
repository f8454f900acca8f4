"""Models with compiled messages: the numbers of their framework's own operations."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase
import pytest
import torch
from ase.build import bulk

from pft_lightning import keys
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import BackendUnavailableError, NotDifferentiableError
from pft_lightning.kernels import messages
from pft_lightning.testing import (
    build_crystal_batch,
    build_tiny_crystals,
    check_backend_conformance,
)


sys.path.insert(0, str(Path(__file__).parent))

from models import VARIANTS
from nequix_models import CONFIG, ELEMENTS
from sevennet_models import VARIANTS as SEVENNET_VARIANTS
from sevennet_models import config_of
from sevennet_models import write_checkpoint as write_sevennet


pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of MACE, e3nn, NequIP, TorchScript
    pytest.mark.skipif(
        not messages.can_fuse(torch.float64, torch.device("cpu"), 3),
        reason="no C compiler here",
    ),
]

# More and fewer channels than fit a vector of 64 bytes; harmonics of a higher degree.
NEQUIX = {
    "nequix three degrees": ("35x0e + 16x1o + 8x2e + 3x3o", 3),
    "nequix two degrees": ("6x0e + 2x2e", 4),
}
MACE = [f"mace {variant}" for variant in sorted(VARIANTS)]
NEQUIP = ["nequip float64", "nequip zbl_parity"]
SEVENNET = ["sevennet plain", "sevennet parity_nequip"]
ONE_OF_EACH = [
    *("nequix three degrees", "mace scale_shift", "nequip float64"),
    "sevennet plain",
]


def make_nequix(name: str):
    try:
        from pft_lightning.backends.nequix import files as nequix_files
        from pft_lightning.backends.nequix import model as nequix
    except (ImportError, BackendUnavailableError) as error:
        pytest.skip(f"no e3nn for Nequix: {error}")
    irreps, lmax = NEQUIX[name]
    config = CONFIG | {"hidden_irreps": irreps, "lmax": lmax}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nequix_files.build(config, Path("config"))
    return nequix.NequixModel(network, config).double()


@pytest.fixture
def make_model(request, tmp_path):
    """Build a model by name, in double precision; skip where its framework is not."""

    def make(name: str):
        framework, variant = name.split(" ", 1)
        if framework == "nequix":
            return make_nequix(name)
        library = {"sevennet": "sevenn"}.get(framework, framework)
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{framework} is not installed here")
        if framework == "sevennet":
            config = config_of(**SEVENNET_VARIANTS[variant])
            return load_model(
                write_sevennet(tmp_path / "sevennet.pth", config), dtype="float64"
            )
        head = "Default" if variant == "heads" else None
        files = request.getfixturevalue(f"{framework}_files")
        return load_model(files[variant], head=head)

    return make


def crystals(cutoff: float):
    """Two rattled crystals, one with a cell smaller than the cutoff."""
    structures = []
    for cells, seed in (((1, 1, 1), 0), ((2, 2, 1), 1)):
        atoms = bulk("NaCl", "rocksalt", 5.5) * cells
        atoms.rattle(0.05, seed=seed)
        structures.append(atoms)
    return build_crystal_batch(structures, cutoff)


def derivatives(model, batch, engine):
    """Energy, forces, stress, H v, and the gradient of a loss of all of them.

    Of a random direction and of a Hessian column, which leaves most edges alone, as
    one batch of probes, and of the column alone.
    """
    generator = torch.Generator().manual_seed(0)
    tangents = torch.randn(
        batch.num_nodes, 2, 3, dtype=torch.float64, generator=generator
    )
    tangents[:, 1] = 0.0
    tangents[3, 1, 2] = 1.0
    found = model.derivatives(batch, tangents=tangents, engine=engine)
    column = model.derivatives(batch, tangents=tangents[:, 1:], engine=engine)
    values = [found.energy, found.forces, found.stress, found.hvp, column.hvp]
    loss = sum(value.abs().sum() for value in values)
    weights = [p for p in model.parameters() if p.requires_grad]
    return values + list(torch.autograd.grad(loss, weights, materialize_grads=True))


@pytest.mark.parametrize("engine", ["forward_over_reverse", "reverse_over_reverse"])
@pytest.mark.parametrize("name", [*NEQUIX, *MACE, *NEQUIP, *SEVENNET])
def test_compiled_messages_give_the_numbers_of_the_framework(
    name, engine, make_model, monkeypatch, request
):
    model = make_model(name)
    batch = crystals(model.cutoff)
    calls = []
    contract = messages.contract
    monkeypatch.setattr(
        messages, "contract", lambda *args: calls.append(1) or contract(*args)
    )
    compiled = derivatives(model, batch, engine)
    assert calls
    calls.clear()
    request.getfixturevalue("not_compiled")
    framework = derivatives(model, batch, engine)
    assert not calls
    for mine, other in zip(compiled, framework, strict=True):
        # Sums of some hundred terms in another order, three derivatives deep.
        scale = float(other.abs().max())
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-13 * max(scale, 1))


@pytest.mark.parametrize("engine", ["forward_over_reverse", "reverse_over_reverse"])
@pytest.mark.parametrize(
    "name",
    [
        *("nequix two degrees", "mace scale_shift", "nequip float64"),
        "sevennet parity_nequip",
    ],
)
def test_messages_of_a_gpu_give_the_numbers_of_those_in_c(
    name, engine, make_model, twins, monkeypatch
):
    """A Hessian column and gradients of a step, of two atoms; Triton is interpreted."""
    model = make_model(name)
    pair = ase.Atoms("NaCl", positions=[[0.0, 0.0, 0.0], [1.5, 1.3, 1.1]])
    batch = build_crystal_batch([pair], model.cutoff)
    column = torch.zeros(2, 1, 3, dtype=torch.float64)
    column[1, 0, 2] = 1.0

    def step():
        found = model.derivatives(batch, tangents=column, engine=engine)
        values = [found.energy, found.forces, found.hvp]
        loss = sum(value.square().sum() for value in values)
        weights = [p for p in model.parameters() if p.requires_grad]
        return values + list(torch.autograd.grad(loss, weights, materialize_grads=True))

    triton = step()
    assert set(twins.slots) == {0, 1, 2, 3}
    monkeypatch.undo()
    launches = len(twins.slots)
    in_c = step()
    assert len(twins.slots) == launches
    for mine, other in zip(triton, in_c, strict=True):
        scale = max(float(other.abs().max()), 1e-3)
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-13 * scale)


@pytest.mark.parametrize(
    "name", ["nequix three degrees", "mace density_orders", "nequip float64"]
)
def test_without_a_compiler_derivatives_are_exact(name, make_model, not_compiled):
    """Of one crystal; of others the numbers are those of compiled messages, above."""
    model = make_model(name)
    crystals = build_tiny_crystals(model.atomic_numbers, model.cutoff)
    check_backend_conformance(model, {"small": crystals["small"]})


@pytest.mark.parametrize("name", ONE_OF_EACH[1:])
def test_networks_are_the_frameworks_own_again_after_a_step(
    name, make_model, monkeypatch
):
    """Also after one that failed."""
    model = make_model(name)
    before = [dict(vars(module)) for module in model.network.modules()]
    batch = crystals(model.cutoff)
    model.derivatives(batch)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(messages, "contract", fail)
    with pytest.raises(MemoryError):
        model.derivatives(batch)
    after = [dict(vars(module)) for module in model.network.modules()]
    assert [sorted(x) for x in after] == [sorted(x) for x in before]
    assert not any("conv_fusion" in x for x in after)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("engine", ["forward_over_reverse", "reverse_over_reverse"])
def test_an_isolated_atom_has_an_energy_and_no_curvature(name, engine, make_model):
    model = make_model(name)
    batch = build_crystal_batch([ase.Atoms("Na", cell=[30.0] * 3, pbc=True)], 4.5)
    tangents = torch.ones(1, 1, 3, dtype=torch.float64)
    found = model.derivatives(batch, tangents=tangents, engine=engine)
    assert torch.isfinite(found.energy).all()
    assert found.forces.abs().max() == found.hvp.abs().max() == 0


@pytest.mark.parametrize("name", ONE_OF_EACH[1:])
def test_prepared_batches_and_models_can_be_copied(name, make_model):
    model = make_model(name)
    batch = model.prepare(crystals(model.cutoff))
    positions, strain = batch[keys.POSITIONS], torch.zeros(2, 3, 3, dtype=torch.float64)
    energy = model.energy(batch, positions, strain)
    for other, prepared in (
        (model, copy.deepcopy(batch)),
        (model, pickle.loads(pickle.dumps(batch))),
        (copy.deepcopy(model), batch),
    ):
        assert torch.equal(other.energy(prepared, positions, strain), energy)


@pytest.mark.parametrize("name", ONE_OF_EACH[1:])
def test_a_model_serves_several_threads(name, make_model):
    model = make_model(name)
    batches = []
    for seed in range(2):
        atoms = bulk("NaCl", "rocksalt", 5.5)
        atoms.rattle(0.05, seed=seed)
        batches.append(build_crystal_batch([atoms], model.cutoff))
    expected = [model.derivatives(batch).forces for batch in batches]

    def work(index):
        return [model.derivatives(batches[index]).forces for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, range(2)))
    for forces, each in zip(found, expected, strict=True):
        assert all(torch.equal(x, each) for x in forces)
    assert not any("forward" in vars(module) for module in model.network.modules())


def test_autocast_takes_the_other_way(make_model):
    model = make_model("nequix three degrees").float()
    assert list(model.atomic_numbers) == ELEMENTS
    with torch.autocast("cpu"):
        assert torch.isfinite(model.derivatives(crystals(model.cutoff)).forces).all()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_model_that_refused_inference_mode_computes_outside_of_it(name, make_model):
    model = make_model(name)
    batch = crystals(model.cutoff)
    with torch.inference_mode(), pytest.raises(NotDifferentiableError):
        model.derivatives(batch)
    assert torch.isfinite(model.derivatives(batch).forces).all()
