"""MACE ``.model`` files of any e3nn, and MACE networks without TorchScript.

A ``.model`` file pickles the whole module, with code that e3nn generated; e3nn 0.4.4
cannot open what 0.6 wrote, nor the reverse. Here only parameters, buffers and the
attributes that describe the architecture are taken from the pickle (``mace_stored``),
and the network is built anew from MACE's own classes. That also yields a network
without TorchScript, whose optimiser makes second derivatives under ``torch.func``
wrong (e3nn 0.4.4).
"""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Iterator
from typing import Any

import torch

from pft_lightning.backends.mace.state import keep_global_state
from pft_lightning.errors import CheckpointError
from pft_lightning.physics.exact import replace_layer_norms
from pft_lightning.physics.harmonics import Harmonics


with keep_global_state():
    import e3nn
    import mace.modules
    from e3nn.o3 import SphericalHarmonics, spherical_harmonics
    from e3nn.util.codegen import CodeGenMixin
    from mace.modules.symmetric_contraction import EmptyParam
    from mace.tools.scripts_utils import extract_config_mace_model


def extract_config(module: Any) -> dict[str, Any]:
    """Arguments with which MACE builds a network of the same architecture.

    MACE's own extraction, plus what it leaves out: models without scale and shift,
    correlation orders that differ by layer, and layers that keep all irreps.

    Raises:
        CheckpointError: a network converted for cuEquivariance or OpenEquivariance.
    """
    for kernel in ("cueq_config", "oeq_config"):
        if getattr(getattr(module, kernel, None), "enabled", False):
            raise CheckpointError(
                f"the network uses {kernel.split('_')[0]} kernels, which cannot be "
                "differentiated three times. Convert it to e3nn first: python -m "
                f"mace.cli.convert_{kernel.split('_')[0]}_e3nn."
            )
    view = copy.copy(module)
    is_scaled = hasattr(module, "scale_shift")
    if not is_scaled:
        view._modules = dict(module._modules)
        view.__class__ = type("ScaleShiftMACE", (type(module),), {})
        view.scale_shift = types.SimpleNamespace(  # type: ignore[assignment]
            scale=torch.ones(1), shift=torch.zeros(1)
        )
    config: dict[str, Any] = extract_config_mace_model(view)
    if not is_scaled:
        del config["atomic_inter_scale"], config["atomic_inter_shift"]
    config["atomic_numbers"] = [int(z) for z in module.atomic_numbers]
    products = list(module.products)
    with contextlib.suppress(AttributeError):
        config["correlation"] = [
            len(p.symmetric_contractions.contractions[0].weights) + 1 for p in products
        ]
    if len(products) > 1 and len(products[-1].linear.irreps_out) > 1:
        config["keep_last_layer_irreps"] = True
    return config


def build(
    class_name: str,
    config: dict[str, Any],
    weights: dict[str, torch.Tensor],
    *,
    scripted: bool,
) -> torch.nn.Module:
    """Build a network and give it weights.

    Args:
        class_name: one of ``SUPPORTED``.
        config: from ``extract_config``.
        weights: state of the network to rebuild; its dtype is kept.
        scripted: as MACE builds it (to be saved); otherwise without any TorchScript
            (to be differentiated).

    Raises:
        CheckpointError: MACE does not build it, or the weights do not fit.
    """
    try:
        network = construct(class_name, config, weights, scripted=scripted)
    except CheckpointError:
        raise
    # Where a description is damaged, MACE fails in any way.
    except Exception as error:
        raise CheckpointError(
            f"MACE cannot build the network that the file describes "
            f"({type(error).__name__}: {error}). Copy or download it again, or install "
            "the version of MACE that wrote it."
        ) from error
    _load_weights(network, weights)
    # MACE keeps the isolated-atom energies in float64 where its user set them so.
    network = network.to(_weight_dtype(weights))
    if not scripted:
        _remove_scripted_parts(network)
        replace_layer_norms(network)
    return network


def construct(
    class_name: str,
    config: dict[str, Any],
    weights: dict[str, torch.Tensor],
    *,
    scripted: bool = False,
    seed: int = 0,
) -> torch.nn.Module:
    """Let MACE build a network, with random weights of the dtype of those given."""
    with keep_global_state(), _e3nn_scripting(scripted), _keep_random_state():
        torch.set_default_dtype(_weight_dtype(weights))
        torch.manual_seed(seed)
        network: torch.nn.Module = getattr(mace.modules, class_name)(**config)
    return network


def draw_weights(network: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Parameters as MACE's own builder draws them for this architecture.

    Atomic energies, scale and shift, and the mean number of neighbours are buffers or
    attributes, so they are not among them.
    """
    fresh = construct(
        type(network).__name__,
        extract_config(network),
        network.state_dict(),
        seed=seed,
    )
    return {n: p.detach() for n, p in fresh.named_parameters() if p.numel()}


def _weight_dtype(weights: dict[str, torch.Tensor]) -> torch.dtype:
    for name, value in weights.items():
        if name.endswith("node_embedding.linear.weight") and value.is_floating_point():
            return value.dtype
    raise CheckpointError(
        "the network has no weights of an embedding of elements; the file is damaged."
    )


@contextlib.contextmanager
def _e3nn_scripting(enabled: bool) -> Iterator[None]:
    """Whether e3nn turns the code it generates into TorchScript."""
    defaults = e3nn.get_optimization_defaults()
    if "jit_mode" in defaults:  # e3nn >= 0.5.5; its default depends on torch
        changed: dict[str, Any] = {} if enabled else {"jit_mode": "eager"}
    else:
        changed = {"jit_script_fx": enabled}
    e3nn.set_optimization_defaults(**changed)
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(**{k: defaults[k] for k in changed})


@contextlib.contextmanager
def _keep_random_state() -> Iterator[None]:
    """Building draws random weights that are then overwritten; leave no trace."""
    with torch.random.fork_rng(devices=[]):
        yield


def generated_prefixes(network: torch.nn.Module) -> tuple[str, ...]:
    """What the names of constants in code that e3nn generated start with."""
    return tuple(
        f"{name}.{child}." if name else f"{child}."
        for name, module in network.named_modules()
        if isinstance(module, CodeGenMixin)
        for child in getattr(module, "__codegen__", [])
    )


def _load_weights(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copy weights; constants that the file lacks were computed by the builder."""
    try:
        result = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"the weights do not fit the rebuilt network: {reason}"
        ) from error
    generated = generated_prefixes(network)
    parameters = {name for name, _ in network.named_parameters()}
    missing = [
        key
        for key in result.missing_keys
        if key in parameters
        # Old files lack these flags, and generated code is never read from a file.
        or not (key.endswith("_zeroed") or key.startswith(generated))
    ]
    if missing or result.unexpected_keys:
        raise CheckpointError(
            "the network cannot be rebuilt from its description: weights missing "
            f"{missing[:5]}, not expected {result.unexpected_keys[:5]}. Adapters "
            "(LoRA) must be merged first; otherwise the file is of a version of "
            "MACE that is not supported."
        )


def _remove_scripted_parts(network: torch.nn.Module) -> None:
    """Leave only plain modules, which also copy and pickle as they are."""
    for module in network.modules():
        if isinstance(module, CodeGenMixin) and hasattr(module, "__codegen__"):
            # Otherwise copying or pickling would turn the code into TorchScript.
            module.__codegen__ = []
            if hasattr(module, "_compiled_main_right"):
                # Never called by MACE; a stub that only raises, so it cannot pickle.
                module._compiled_main_right = torch.nn.Identity()
        for name, child in list(module.named_children()):
            if type(child) is SphericalHarmonics:
                setattr(module, name, EagerSphericalHarmonics(child))
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, EmptyParam):  # cannot be deep-copied
                frozen = torch.nn.Parameter(parameter.data, requires_grad=False)
                setattr(module, name, frozen)


class EagerSphericalHarmonics(torch.nn.Module):
    """e3nn's spherical harmonics, which e3nn 0.4.4 runs in TorchScript.

    Args:
        original: of a MACE network, which takes those of all degrees, of directions.
    """

    def __init__(self, original: SphericalHarmonics) -> None:
        super().__init__()
        self._lmax = original._lmax  # read by MACE's description of a network
        self.irreps_out = original.irreps_out
        self._form = Harmonics(original._lmax, spherical_harmonics)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Harmonics (n, (l_max + 1)²) of vectors (n, 3)."""
        return self._form(vectors)
