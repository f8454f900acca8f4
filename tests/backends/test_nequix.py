"""Nequix files in both forms: exact derivatives, equality with Nequix."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pft_lightning.backends.calculator import Calculator, hessian_vector_product
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import (
    BackendUnavailableError,
    CheckpointError,
    ConfigError,
)
from pft_lightning.testing import (
    build_crystal_batch,
    build_tiny_crystals,
    check_backend_conformance,
)


try:
    import pft_lightning.backends.nequix.files  # noqa: F401
except (ImportError, BackendUnavailableError) as error:
    pytest.skip(f"no e3nn for Nequix: {error}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of Nequix, JAX, torch

sys.path.insert(0, str(Path(__file__).parent))

from conftest import assert_same_as  # noqa: E402
from nequix_models import CONFIG, write_model  # noqa: E402


# Harmonics of a higher degree than the features, degrees left out, no norm.
OTHER = {
    "hidden_irreps": "6x0e + 2x2e",
    "lmax": 3,
    "layer_norm": False,
    "radial_mlp_layers": 1,
}
PUBLISHED = ("nequix-mp-1.pt", "nequix-mp-1-pft.pt")
OTHER_PUBLISHED = tuple(
    f"nequix-{name}.nqx"
    for name in ("mp-1-pft-nocotrain", "omat-1", "oam-1", "oam-1-pft")
)

needs_nequix = pytest.mark.skipif(
    not all(importlib.util.find_spec(n) for n in ("nequix", "jax", "e3nn_jax")),
    reason="Nequix itself, which imports JAX, is not installed here",
)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nequix")
    paths = {}
    for name, options in {"norm": {}, "other": OTHER}.items():
        for suffix in (".pt", ".nqx"):
            paths[name + suffix] = folder / (name + suffix)
            write_model(paths[name + suffix], **options)
    return paths


@pytest.fixture
def published(shared_data) -> Path:
    return shared_data / "models"


def stock_calculator(path: Path, backend: str = "torch"):
    legacy = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            from nequix.calculator import NequixCalculator

            return NequixCalculator(
                model_path=str(path), backend=backend, use_kernel=False
            )
    finally:
        np.random.set_state(legacy)  # noqa: NPY002


def scale_parameters(model) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.01


def assert_same_weights(model, other) -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", ["norm.pt", "other.nqx"])
def test_derivatives_are_exact(files, name):
    check_backend_conformance(load_model(files[name], dtype="float64"))


def as_file(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_numbers_of_the_configuration_may_follow_the_weights(files, tmp_path):
    """As Nequix's fine-tuning writes them."""
    numbers = (np.float64(6.0), np.int64(11), np.bool_(True))
    content = b"".join(as_file(np.asarray(number)) for number in numbers)
    path = tmp_path / "more.nqx"
    path.write_bytes(files["norm.nqx"].read_bytes().rstrip(b"\n") + content)
    assert_same_weights(load_model(path), load_model(files["norm.nqx"]))


@pytest.mark.parametrize("name", OTHER_PUBLISHED)
def test_all_published_weights_are_read(published, name, rattled):
    rattled.calc = Calculator(load_model(published / name))
    assert np.isfinite(rattled.get_forces()).all()


def test_derivatives_of_the_published_model_are_exact(published):
    model = load_model(published / PUBLISHED[0], dtype="float64")
    structures = build_tiny_crystals([11, 17], model.cutoff)
    del structures["large"]
    check_backend_conformance(model, structures)


@needs_nequix
@pytest.mark.parametrize("name", ["norm.pt", "other.pt", "norm.nqx", "other.nqx"])
def test_same_as_nequix_calculator(files, name, rattled):
    """In its float32, by its torch code for ``.pt`` and by JAX for ``.nqx``."""
    path = files[name]
    stock = stock_calculator(path, "jax" if path.suffix == ".nqx" else "torch")
    assert_same_as(stock, load_model(path), rattled, 1e-5)


@needs_nequix
@pytest.mark.parametrize("name", [*PUBLISHED, "nequix-mp-1.nqx"])
def test_published_models_same_as_nequix_calculator(published, name, rattled):
    path = published / name
    stock = stock_calculator(path, "jax" if path.suffix == ".nqx" else "torch")
    assert_same_as(stock, load_model(path), rattled, 1e-5)


@needs_nequix
@pytest.mark.parametrize("name", ["norm.pt", "other.nqx"])
@pytest.mark.parametrize("suffix", [".pt", ".nqx"])
def test_saved_models_open_in_nequix(files, name, suffix, rattled, tmp_path):
    """Whichever form the original had."""
    model = load_model(files[name])
    scale_parameters(model)
    path = tmp_path / f"new{suffix}"
    model.save(path)
    stock = stock_calculator(path, "jax" if suffix == ".nqx" else "torch")
    assert_same_as(stock, model, rattled, 1e-5)


@pytest.mark.parametrize("name", ["norm.pt", "other.pt", "norm.nqx", "other.nqx"])
@pytest.mark.parametrize("suffix", [".pt", ".nqx"])
def test_round_trip_is_bitwise(files, name, suffix, tmp_path):
    model = load_model(files[name])
    assert model.file_suffix == files[name].suffix
    scale_parameters(model)
    path = tmp_path / f"new{suffix}"
    model.save(path)
    again = load_model(path)
    assert again.file_suffix == suffix
    assert again.config == model.config
    assert_same_weights(again, model)


def test_float64_round_trip_is_bitwise(files, tmp_path):
    model = load_model(files["norm.pt"], dtype="float64")
    scale_parameters(model)
    model.save(tmp_path / "new.pt")
    again = load_model(tmp_path / "new.pt")
    assert again.dtype == torch.float64
    assert_same_weights(again, model)


def test_the_published_jax_file_is_written_back_byte_for_byte(published, tmp_path):
    original = published / "nequix-mp-1.nqx"
    load_model(original).save(tmp_path / "new.nqx")
    # The published file has one line break behind its last array.
    assert (tmp_path / "new.nqx").read_bytes() == original.read_bytes().rstrip(b"\n")


def test_both_published_forms_hold_the_same_weights(published):
    """Up to the rounding of the energies of atoms, which JAX keeps as weights."""
    torch_form = load_model(published / "nequix-mp-1.pt").network
    jax_form = load_model(published / "nequix-mp-1.nqx").network
    difference = (torch_form.atom_energies - jax_form.atom_energies).abs().max()
    assert difference < 1e-6
    jax_form.atom_energies.copy_(torch_form.atom_energies)
    assert_same_weights(torch_form, jax_form)


def test_change_of_dtype_keeps_no_rounding(files, rattled):
    """Loaded in float64, or converted later as Lightning's precision plugins do."""
    model = load_model(files["norm.pt"], dtype="float64")
    later = load_model(files["norm.pt"]).double()
    assert_same_as(Calculator(later), model, rattled, 1e-13)
    single = load_model(files["norm.pt"])
    assert single.dtype == torch.float32
    assert_same_as(Calculator(single), model, rattled, 1e-4)
    with pytest.raises(AssertionError):
        assert_same_as(Calculator(single), model, rattled, 1e-12)


def test_copies_and_pickles(files, rattled):
    model = load_model(files["norm.pt"], dtype="float64")
    tangents = np.random.default_rng(1).normal(size=(4, 3))
    expected = hessian_vector_product(model, rattled, tangents)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found = hessian_vector_product(twin, rattled, tangents)
        assert np.abs(found - expected).max() < 1e-13


def test_the_order_of_edges_does_not_matter(files, rattled):
    model = load_model(files["norm.pt"], dtype="float64")
    batch = build_crystal_batch([rattled], model.cutoff)
    forces = model.derivatives(batch).forces
    order = torch.randperm(batch.num_edges, generator=torch.Generator().manual_seed(0))
    batch.edge_index = batch.edge_index[:, order]
    batch.edge_shifts = batch.edge_shifts[order]
    # Sums of some dozens of terms in another order.
    assert (model.derivatives(batch).forces - forces).abs().max() < 1e-12


def test_envelope_zeroes_edges_beyond_the_cutoff(files, rattled):
    """Even where nobody drops them."""
    model = load_model(files["norm.pt"], dtype="float64")
    strain = torch.zeros(1, 3, 3).double()
    energies = []
    for margin in (0.0, 1.5):
        batch = build_crystal_batch([rattled], model.cutoff + margin)
        batch = model.arrangement().finish(batch)
        energies.append(model.energy(batch, batch.positions, strain))
    assert abs(float(energies[0] - energies[1])) < 1e-12


def test_loading_imports_neither_nequix_nor_jax(files):
    code = (
        "import sys; from pft_lightning.backends.registry import load_model; "
        f"load_model({str(files['norm.pt'])!r}); "
        f"load_model({str(files['norm.nqx'])!r}); "
        "print([m for m in ('nequix', 'jax', 'equinox') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_bad_files(files, tmp_path):
    def refused(content: bytes, pattern: str) -> None:
        path = tmp_path / "bad.nqx"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"(?s)bad\.nqx.*{pattern}"):
            load_model(path)

    with pytest.raises(ConfigError, match="no heads"):
        load_model(files["norm.pt"], head="Default")
    with pytest.raises(CheckpointError, match=r"Nequix model.*backend='mace'"):
        load_model(files["norm.pt"], backend="mace")
    for name in ("norm.pt", "norm.nqx"):
        content = files[name].read_bytes()
        line = content.index(b"\n") + 1
        for length in (line, line + 3, line + 1000, len(content) - 1):
            refused(content[:length], "truncated")
        refused(content[: line - 20], "starts with JSON|not a file that torch")
    arrays = files["norm.nqx"].read_bytes()
    refused(arrays + b"\x93NUMPY", "goes on behind")
    refused(arrays + as_file(np.zeros(3)), "goes on behind")
    weights = files["norm.pt"].read_bytes().split(b"\n", 1)[1]
    jax_weights = arrays.split(b"\n", 1)[1]
    for changes, pattern in (
        ({"index_weights": True}, "index_weights=true"),
        ({"hidden_irreps": "4x1o + 8x0e"}, "hidden_irreps.*sorted"),
        ({"hidden_irreps": "8x0e + 4x1e"}, "hidden_irreps.*parities"),
        ({"n_layers": 2}, "not known here|goes on"),
        ({"n_layers": 4}, "missing|truncated|shape"),
    ):
        line = json.dumps({**CONFIG, **changes}).encode() + b"\n"
        refused(line + weights, pattern)
        refused(line + jax_weights, pattern)
    short = {k: v for k, v in CONFIG.items() if k != "lmax"}
    refused(json.dumps(short).encode() + b"\n" + weights, r"lacks \['lmax'\]")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_layers", 10**6),
        ("n_layers", 2.0),
        ("lmax", "2"),
        ("cutoff", 1e9),
        ("cutoff", 0),
        ("cutoff", "4.5"),
        ("radial_polynomial_p", -6.0),
        ("radial_basis_size", 0),
        ("radial_mlp_size", 10**6),
        ("avg_n_neighbors", 0),
        ("scale", float("nan")),
        ("shift", None),
        ("layer_norm", "yes"),
        ("hidden_irreps", 8),
        ("hidden_irreps", "999999999x0e"),
        ("atom_energies", {}),
        ("atomic_numbers", [11, 14, 999]),
    ],
)
def test_values_out_of_range_are_named_before_anything_is_built(
    files, tmp_path, name, value
):
    for kind in ("norm.pt", "norm.nqx"):
        body = files[kind].read_bytes().partition(b"\n")[2]
        path = tmp_path / kind
        path.write_bytes(json.dumps({**CONFIG, name: value}).encode() + b"\n" + body)
        named = f"{name}=" if value != "999999999x0e" else "channels"
        with pytest.raises(CheckpointError, match=rf"{kind}: .*{named}"):
            load_model(path)


@pytest.mark.parametrize(
    "content", [[1], "abc", {"a": "b"}, {"a": torch.zeros(3, device="meta")}]
)
def test_weights_of_another_form_are_refused(tmp_path, content):
    path = tmp_path / "a.pt"
    with path.open("wb") as file:
        file.write(json.dumps(CONFIG).encode() + b"\n")
        torch.save(content, file)
    with pytest.raises(CheckpointError, match="expected weights by name"):
        load_model(path)


def test_energies_of_atoms_that_are_not_finite_are_named(files, tmp_path):
    path = tmp_path / "a.pt"
    line, _, body = files["norm.pt"].read_bytes().partition(b"\n")
    weights = torch.load(io.BytesIO(body), weights_only=True)
    weights["atom_energies"][1] = torch.nan
    with path.open("wb") as file:
        file.write(line + b"\n")
        torch.save(weights, file)
    with pytest.raises(CheckpointError, match=r"atom_energies holds NaN"):
        load_model(path)
