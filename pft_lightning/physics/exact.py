"""What torch gets wrong in higher derivatives, and how to avoid it.

Training on Hessian-vector products takes third derivatives, which few programs do;
each trap here gave wrong numbers without a warning.
"""

from __future__ import annotations

import contextlib

import torch


def contains_torchscript(network: torch.nn.Module) -> bool:
    """Whether any part of a network runs in TorchScript."""
    return any(
        isinstance(module, torch.jit.ScriptModule)
        or any(isinstance(v, torch.jit.ScriptFunction) for v in vars(module).values())
        for module in network.modules()
    )


def exact_torchscript(is_scripted: bool) -> contextlib.AbstractContextManager[None]:
    """Switch TorchScript's optimiser off where there is TorchScript.

    Under torch.func it gives second derivatives that are wrong by up to 2e-3, from
    the second or third call on (seen with e3nn 0.4.4).
    """
    if is_scripted:
        return torch.jit.optimized_execution(False)
    return contextlib.nullcontext()


def replace_layer_norms(network: torch.nn.Module) -> None:
    """Exchange torch's layer norms for exact ones, in place; weights stay the same."""
    for module in network.modules():
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.LayerNorm:
                setattr(module, name, ExactLayerNorm(child))


class ExactLayerNorm(torch.nn.Module):
    """Layer norm written out in elementary operations.

    The backward pass of torch's own treats mean and variance as constants when it is
    differentiated twice more: gradients of a Hessian loss were wrong by 40 % in a
    three-line example, https://github.com/pytorch/pytorch/issues/175754.

    Args:
        original: whose parameters to take over.
    """

    def __init__(self, original: torch.nn.LayerNorm) -> None:
        super().__init__()
        self.normalized_shape = original.normalized_shape
        self.eps = original.eps
        self.weight = original.weight
        self.bias = original.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs (…, *normalized_shape) with zero mean and unit variance."""
        axes = tuple(range(-len(self.normalized_shape), 0))
        centred = inputs - inputs.mean(dim=axes, keepdim=True)
        variance = centred.square().mean(dim=axes, keepdim=True)
        outputs = centred * (variance + self.eps).rsqrt()
        if self.weight is not None:
            outputs = outputs * self.weight
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs
