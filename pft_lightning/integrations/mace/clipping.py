"""Clipping of gradients as in ``mace_run_train``, with all that it counts.

Where it fine-tunes, MACE turns the wave numbers of the radial basis, a buffer, into a
parameter that no group of its optimiser holds: it never moves, and its gradient, which
nothing clears, grows from step to step and counts in the norm that is clipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


_ENTRY = "mace_gradients"


class Bystanders:
    """Parameters that are not trained, but whose gradients count in the clipping.

    Args:
        network: rebuilt; the buffers that are parameters of MACE's become such.
        prepared: the same network as MACE has built it; None for no bystanders.
    """

    def __init__(
        self, network: torch.nn.Module, prepared: torch.nn.Module | None
    ) -> None:
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._stored: dict[str, torch.Tensor] = {}
        if prepared is None:
            return
        made = {n for n, p in prepared.named_parameters() if p.requires_grad}
        for name in [n for n, _ in network.named_buffers() if n in made]:
            parent, _, attribute = name.rpartition(".")
            module = network.get_submodule(parent)
            parameter = torch.nn.Parameter(module.get_buffer(attribute))
            delattr(module, attribute)
            module.register_parameter(attribute, parameter)
            self._parameters[name] = parameter

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Take them for the constants that they are: no gradients, not trained."""
        for parameter in self._parameters.values():
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self._parameters.values():
                parameter.requires_grad_(True)

    @contextlib.contextmanager
    def preserve_gradients(self) -> Iterator[None]:
        """Undo what clears gradients without the optimiser."""
        kept = [(p, p.grad) for p in self._parameters.values()]
        yield
        for parameter, gradient in kept:
            parameter.grad = gradient

    def clip(self, network: torch.nn.Module, max_norm: float, *, counted: bool) -> None:
        """Scale the gradients of a network to at most a norm.

        Args:
            network: whose parameters they are.
            max_norm: of all gradients together.
            counted: whether those of the bystanders are among them.
        """
        parameters = [
            parameter
            for name, parameter in network.named_parameters()
            if counted or name not in self._parameters
        ]
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def save(self, checkpoint: dict[str, object]) -> None:
        """Add their gradients, which a resumed run goes on with."""
        gradients = {
            name: parameter.grad.detach().cpu()
            for name, parameter in self._parameters.items()
            if parameter.grad is not None
        }
        if gradients:
            checkpoint[_ENTRY] = gradients

    def load(self, checkpoint: dict[str, object]) -> None:
        """Note the gradients that a checkpoint holds."""
        gradients = checkpoint.get(_ENTRY, {})
        assert isinstance(gradients, dict)
        self._stored = gradients

    def start(self) -> None:
        """Go on with them, once Lightning has cleared the gradients of all."""
        for name, parameter in self._parameters.items():
            if name in self._stored:
                parameter.grad = self._stored[name].to(parameter)
        self._stored = {}
