"""Energy, forces, stress and products of higher derivatives of one energy.

Every automatic-differentiation mode of the package lives here; a backend only
supplies ``energy(positions, strain)``.

With tangents everything comes out of ``jvp(grad(energy), positions, tangent)``
(``forward_over_reverse``) or out of differentiating the gradient once more
(``reverse_over_reverse``); energy and forces are computed once for all probes. Without
tangents it is one reverse pass. Source: arXiv:2601.07742 (phonon fine-tuning).
Third derivatives along pairs of directions differentiate the products once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch

from pft_lightning.errors import ConfigError, NotDifferentiableError
from pft_lightning.physics.direction import along, strained
from pft_lightning.physics.shapes import check_shapes
from pft_lightning.physics.strain import StrainedCoordinates, to_stress
from pft_lightning.physics.third_order import forward_twice, reverse_again
from pft_lightning.types import Derivatives, EnergyFunction, Engine


# (dE/dpositions or None, dE/dstrain or None, energies)
_Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]

# Up to so many probes reverse over reverse takes less time on a GPU.
_FEW_PROBES = 5

# What torch says when an operation lacks the rule that a transform needs.
_MISSING_RULE = ("forward ad", "forward mode", "setup_context", "jvp", "functorch")


def compute_derivatives(
    energy: EnergyFunction,
    positions: torch.Tensor,
    volumes: torch.Tensor,
    *,
    tangents: torch.Tensor | None = None,
    pairs: torch.Tensor | None = None,
    strain_tangents: torch.Tensor | None = None,
    strain_pairs: torch.Tensor | None = None,
    forces: bool = True,
    stress: bool = True,
    engine: Engine | None = None,
) -> Derivatives:
    """Differentiate an energy in one pass.

    The graph to the parameters of ``energy`` is kept where grad mode is on. The product
    is ``+d2E/dR2 @ v = -d(forces)/dR @ v``: ``v . Hv >= 0`` in a stable crystal.

    Args:
        energy: (positions, strain) to the energies (n_structures,), eV. Structures
            must not interact.
        positions: (n_atoms, 3), Å; needs no ``requires_grad``.
        volumes: (n_structures,), Å³; 0 where stress has no meaning.
        tangents: (n_atoms, n_probes, 3), directions v; not normalised here.
        pairs: (n_atoms, n_pairs, 2, 3), directions u and w of third derivatives.
        strain_tangents: (n_structures, n_probes, 3, 3), strains of the directions v;
            their symmetric part counts, and nothing where the volume is 0.
        strain_pairs: (n_structures, n_pairs, 2, 3, 3), likewise of u and w.
        forces: return forces.
        stress: return the stress; without it the strain is not differentiated.
        engine: with the same result either way; None chooses, see ``default_engine``.

    Returns:
        Energies, and what was asked for: forces in eV/Å, stress (symmetric; zero
        where the volume is 0) in eV/Å³, hvp (n_atoms, n_probes, 3) in eV/Å² times
        the unit of the tangents, third (n_atoms, n_pairs, 3), ``d3E/dR3[u, w]``, in
        eV/Å³ times that of both; with ``strain_tangents`` also strain_hvp
        (n_structures, n_probes, 3, 3), ``d(dE/dstrain)`` along the directions v,
        symmetric. All of the dtype of ``positions``.

    Raises:
        ShapeError: one of the tensors has the wrong shape.
        ConfigError: unknown engine.
        NotDifferentiableError: inference mode is on, or the energy contains an
            operation without the derivative rule that the engine needs.
    """
    _check_input(positions, volumes, tangents, pairs, engine)
    if strain_tangents is None and strain_pairs is None:
        return _differentiate(
            energy, positions, volumes, tangents, pairs, forces, stress, engine
        )
    joint = StrainedCoordinates(len(positions), volumes > 0)
    by_rows = joint.energy_of(energy), joint.join(positions.detach()), volumes
    tangents = joint.join_tangents(tangents, strain_tangents)
    pairs = joint.join_pairs(pairs, strain_pairs)
    with strained():
        found = _differentiate(*by_rows, tangents, pairs, True, False, engine)
    return joint.split_derivatives(found, volumes, forces, stress)


def _differentiate(
    energy: EnergyFunction,
    positions: torch.Tensor,
    volumes: torch.Tensor,
    tangents: torch.Tensor | None,
    pairs: torch.Tensor | None,
    forces: bool,
    stress: bool,
    engine: Engine | None,
) -> Derivatives:
    """Derivatives by positions, as of ``compute_derivatives``."""
    keep_graph = torch.is_grad_enabled()
    # A tensor made under inference mode cannot be saved for backward; a clone can.
    positions = positions.clone() if positions.is_inference() else positions.detach()
    strain = positions.new_zeros((volumes.shape[0], 3, 3))
    hvp = third = None
    if tangents is None and pairs is None:
        if not forces and not stress:
            return Derivatives(energy=energy(positions, strain))
        gradients = _reverse(energy, positions, strain, forces, stress, keep_graph)
    else:
        tangents = None if tangents is None else tangents.detach().to(positions)
        pairs = None if pairs is None else pairs.detach().to(positions)
        n_probes = 1 if tangents is None else tangents.shape[1]
        engine = engine or default_engine(positions.device, n_probes)
        gradients, hvp, third = _differentiate_again(
            engine, energy, positions, strain, tangents, pairs, stress, keep_graph
        )
    grad_positions, grad_strain, energies = gradients
    return Derivatives(
        energy=energies if keep_graph else energies.detach(),
        forces=-grad_positions if forces and grad_positions is not None else None,
        stress=to_stress(grad_strain, volumes) if grad_strain is not None else None,
        hvp=hvp,
        third=third,
    )


def _reverse(
    energy: EnergyFunction,
    positions: torch.Tensor,
    strain: torch.Tensor,
    forces: bool,
    stress: bool,
    keep_graph: bool,
) -> _Gradients:
    """One reverse pass with the plain autograd engine, which has least overhead."""
    with torch.enable_grad():
        positions = positions.requires_grad_(forces)
        strain = strain.requires_grad_(stress)
        energies = energy(positions, strain)
        inputs = [x for x in (positions, strain) if x.requires_grad]
        gradients = _grad(energies.sum(), inputs, keep_graph)
    grad_positions = gradients.pop(0) if forces else None
    return grad_positions, gradients.pop(0) if stress else None, energies


def _differentiate_again(
    engine: Engine,
    energy: EnergyFunction,
    positions: torch.Tensor,
    strain: torch.Tensor,
    tangents: torch.Tensor | None,
    pairs: torch.Tensor | None,
    stress: bool,
    keep_graph: bool,
) -> tuple[_Gradients, torch.Tensor | None, torch.Tensor | None]:
    """Gradients, products and third derivatives by the engine of this name."""
    compute = (
        _forward_over_reverse
        if engine == "forward_over_reverse"
        else _reverse_over_reverse
    )
    try:
        return compute(energy, positions, strain, tangents, pairs, stress, keep_graph)
    except (NotImplementedError, RuntimeError) as error:
        _raise_if_rule_missing(error, engine)
        raise


def _forward_over_reverse(
    energy: EnergyFunction,
    positions: torch.Tensor,
    strain: torch.Tensor,
    tangents: torch.Tensor | None,
    pairs: torch.Tensor | None,
    stress: bool,
    keep_graph: bool,
) -> tuple[_Gradients, torch.Tensor | None, torch.Tensor | None]:
    gradient = _functional_gradient(energy, strain, stress)
    hvp = third = None
    if tangents is None:
        primal = gradient(positions)
    else:
        primal, hvp = _push(gradient, positions, tangents, stress)
    if pairs is not None:
        alone = _functional_gradient(energy, strain, stress=False)
        third = forward_twice(lambda r: alone(r)[0], positions, pairs, keep_graph)
    return (primal[0], primal[2] if stress else None, primal[1]), hvp, third


def _push(
    gradient: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
    positions: torch.Tensor,
    tangents: torch.Tensor,
    stress: bool,
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """What the gradient gives, and the products (n_atoms, n_probes, 3)."""

    def push(tangent: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        outputs = torch.func.jvp(gradient, (positions,), (tangent,))
        return outputs[0], outputs[1][0]

    with along(tangents):
        if tangents.shape[1] == 1:
            # vmap over one probe would only add overhead.
            primal, hvp = push(tangents[:, 0])
            hvp = hvp.unsqueeze(1)
        else:
            shared = (None,) * (3 if stress else 2)
            primal, hvp = torch.func.vmap(
                push,
                in_dims=1,
                # Not 1: torch inserts the axis only in front where nothing was mapped,
                # as for an energy that does not depend on the positions.
                out_dims=(shared, 0),  # type: ignore[arg-type]
            )(tangents)
            hvp = hvp.movedim(0, 1)
    return primal, hvp


def _functional_gradient(
    energy: EnergyFunction, strain: torch.Tensor, stress: bool
) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Positions to (dE/dpositions, energies) and, if asked for, dE/dstrain."""

    def total(r: torch.Tensor, e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energies = energy(r, e)
        return energies.sum(), energies

    argnums = (0, 1) if stress else (0,)
    differentiate = torch.func.grad(total, argnums=argnums, has_aux=True)

    def gradient(r: torch.Tensor) -> tuple[torch.Tensor, ...]:
        gradients, energies = differentiate(r, strain)
        return gradients[0], energies, *gradients[1:]

    return gradient


def _reverse_over_reverse(
    energy: EnergyFunction,
    positions: torch.Tensor,
    strain: torch.Tensor,
    tangents: torch.Tensor | None,
    pairs: torch.Tensor | None,
    stress: bool,
    keep_graph: bool,
) -> tuple[_Gradients, torch.Tensor | None, torch.Tensor | None]:
    hvp = third = None
    with torch.enable_grad():
        positions = positions.requires_grad_()
        strain = strain.requires_grad_(stress)
        energies = energy(positions, strain)
        inputs = [positions, strain] if stress else [positions]
        gradients = _grad(energies.sum(), inputs, True)
        if tangents is not None:
            last = -1 if pairs is not None else tangents.shape[1] - 1
            products = [
                # The last product may free the graph where nobody needs it later.
                _vector_product(
                    gradients[0],
                    positions,
                    tangent,
                    create_graph=keep_graph,
                    retain_graph=keep_graph or k != last,
                )
                for k, tangent in enumerate(tangents.unbind(1))
            ]
            hvp = torch.stack(products, dim=1)
        if pairs is not None:
            third = reverse_again(gradients[0], positions, pairs, keep_graph)
    if not keep_graph:
        gradients = [gradient.detach() for gradient in gradients]
    return (gradients[0], gradients[1] if stress else None, energies), hvp, third


def _vector_product(
    gradient: torch.Tensor,
    positions: torch.Tensor,
    tangent: torch.Tensor,
    *,
    create_graph: bool,
    retain_graph: bool,
) -> torch.Tensor:
    if not gradient.requires_grad:  # no pair of atoms within the cutoff
        return torch.zeros_like(positions)
    with along(tangent[:, None]):
        (product,) = torch.autograd.grad(
            gradient,
            positions,
            grad_outputs=tangent,
            create_graph=create_graph,
            retain_graph=retain_graph,
            materialize_grads=True,
        )
    return product


def _grad(
    output: torch.Tensor, inputs: list[torch.Tensor], create_graph: bool
) -> list[torch.Tensor]:
    if not output.requires_grad:  # isolated atoms and constant parameters
        return [torch.zeros_like(x) for x in inputs]
    return list(
        torch.autograd.grad(
            output, inputs, create_graph=create_graph, materialize_grads=True
        )
    )


def default_engine(device: torch.device, n_probes: int) -> Engine:
    """Choose how Hessian-vector products are differentiated.

    Reverse over reverse walks the graph once for each probe, forward over reverse once
    for all, at twice the number of operations. On the CPU, where the operations
    themselves take the time, the first is as fast or faster (``benchmarks/hvp_cost``;
    up to 16 probes). On a GPU small operations take what the host needs to start them:
    for 1, 4 and 16 probes 33, 118 and 475 ms against 128, 151 and 198 ms.

    Args:
        device: of the model.
        n_probes: that are computed at once.
    """
    one_by_one = device.type == "cpu" or n_probes <= _FEW_PROBES
    return "reverse_over_reverse" if one_by_one else "forward_over_reverse"


def check_engine(engine: str | None) -> None:
    """Refuse a name that is no engine; None leaves the choice to ``default_engine``.

    Raises:
        ConfigError: it is none.
    """
    if engine is not None and engine not in get_args(Engine):
        raise ConfigError(
            f"engine is {engine!r}; expected one of {list(get_args(Engine))}."
        )


def _check_input(
    positions: torch.Tensor,
    volumes: torch.Tensor,
    tangents: torch.Tensor | None,
    pairs: torch.Tensor | None,
    engine: Engine | None,
) -> None:
    if torch.is_inference_mode_enabled():
        raise NotDifferentiableError(
            "forces and Hessian-vector products cannot be computed under "
            "torch.inference_mode(). Use Trainer(inference_mode=False), or "
            "torch.no_grad() in its place."
        )
    check_engine(engine)
    check_shapes(positions, volumes, tangents, pairs)


def _raise_if_rule_missing(error: Exception, engine: str) -> None:
    text = str(error).lower()
    if isinstance(error, NotImplementedError) or any(w in text for w in _MISSING_RULE):
        other = next(name for name in get_args(Engine) if name != engine)
        raise NotDifferentiableError(
            f"the model contains an operation that {engine} cannot differentiate "
            f"({error}). Try engine={other!r}."
        ) from error
