"""Training steps that a GPU repeats by itself (CUDA graphs), for batches of few sizes.

A step on some dozens of atoms takes as long as the host needs to start its two thousand
kernels. A graph of them starts as one. It is recorded for batches of one size, reads
the batch from fixed places and leaves terms and gradients in fixed places; so batches
are filled up to few sizes (``data.padding``), and weights of terms and counts are
tensors: nothing of a step may depend on numbers that only the host has.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pft_lightning.errors import ConfigError
from pft_lightning.graphs import map_tensors
from pft_lightning.training.splitting import (
    Evaluate,
    Gradients,
    Work,
    differentiate,
)


# Graphs share their memory, but each keeps its batch and some megabytes of its own.
MOST_GRAPHS = 32

# Runs a function, records it, and gives what repeats it and what it returned.
Recorder = Callable[
    [Callable[[], list[torch.Tensor]]], tuple[Callable[[], None], list[torch.Tensor]]
]


class CudaRecorder:
    """Records CUDA graphs that share their memory; no two of them run at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(
        self, step: Callable[[], list[torch.Tensor]]
    ) -> tuple[Callable[[], None], list[torch.Tensor]]:
        """See ``Recorder``."""
        # Libraries and compilers make themselves ready in the first runs.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on, as the one that pins the memory of the next batches.
        with torch.cuda.graph(
            graph, pool=self._pool, capture_error_mode="thread_local"
        ):
            outputs = step()
        self._pool = self._pool or graph.pool()
        return graph.replay, outputs


@dataclass(frozen=True, slots=True)
class _Recording:
    """A step of one size.

    Attributes:
        inputs: where it reads the batch, the counts and the weights of the terms.
        outputs: where it leaves the terms and then the gradients.
        names: of the terms.
        used: for each parameter whether it has a gradient.
        replay: does it again.
    """

    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    names: list[str]
    used: list[bool]
    replay: Callable[[], None]


class ReplayedSteps:
    """Gradients of steps, recorded the first time that a size of batches comes up.

    Args:
        recorder: of what a device does.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._record = recorder or CudaRecorder()
        self._recordings: OrderedDict[Any, _Recording] = OrderedDict()
        self._n_dropped = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplayedSteps:
        """Records anew: a copy of the module (an average) has weights of its own."""
        return ReplayedSteps(self._record)

    def check(self, device: torch.device) -> None:
        """Refuse a device that records nothing.

        Args:
            device: of the training.

        Raises:
            ConfigError: it is no GPU.
        """
        if isinstance(self._record, CudaRecorder) and device.type != "cuda":
            raise ConfigError(
                f"cuda_graphs=true: the training runs on {device}; only a GPU repeats "
                "recorded steps. Leave it out, or set trainer.accelerator=gpu."
            )

    @property
    def n_recordings(self) -> int:
        """Number of sizes that are recorded."""
        return len(self._recordings)

    def __call__(
        self,
        work: Sequence[Work],
        counts: Mapping[str, torch.Tensor],
        weights: Mapping[str, float],
        evaluate: Evaluate,
        parameters: Sequence[torch.nn.Parameter],
    ) -> tuple[dict[str, torch.Tensor], Gradients]:
        """Terms and gradients of a step, as ``differentiate`` gives them.

        Args:
            work: of the step; all of it is on the device.
            counts: that sums are divided by.
            weights: of the terms.
            evaluate: gives the terms of the work.
            parameters: that are trained; they stay where they are.
        """
        tensors = _tensors_of(work) + list(counts.values())
        key = _describe(work, tensors, weights, parameters)
        if key not in self._recordings:
            if len(self._recordings) == MOST_GRAPHS:
                self._drop_oldest()
            self._recordings[key] = self._make(
                work, counts, weights, evaluate, parameters
            )
        self._recordings.move_to_end(key)
        recording = self._recordings[key]
        torch._foreach_copy_(recording.inputs[: len(tensors)], tensors)
        for place, weight in zip(
            recording.inputs[len(tensors) :], weights.values(), strict=True
        ):
            place.fill_(weight)
        recording.replay()
        # The places are written again in the next step; terms may wait to be logged.
        found = [output.clone() for output in recording.outputs]
        terms = dict(zip(recording.names, found, strict=False))
        gradients = iter(found[len(terms) :])
        return terms, [next(gradients) if used else None for used in recording.used]

    def _drop_oldest(self) -> None:
        """Make room; says once that steps are recorded more often than they pay."""
        self._recordings.popitem(last=False)
        self._n_dropped += 1
        if self._n_dropped == MOST_GRAPHS:
            warnings.warn(
                f"cuda_graphs=true: batches come in more than {2 * MOST_GRAPHS} sizes, "
                "so that steps are recorded anew again and again, which takes longer "
                "than to take them. Leave it out; or give batches of one number of "
                "structures. Nequix without Triton sorts neighbours into groups of "
                "many sizes: install Triton.",
                stacklevel=2,
            )

    def _make(
        self,
        work: Sequence[Work],
        counts: Mapping[str, torch.Tensor],
        weights: Mapping[str, float],
        evaluate: Evaluate,
        parameters: Sequence[torch.nn.Parameter],
    ) -> _Recording:
        fixed = [_map_work(part, torch.clone) for part in work]
        fixed_counts = {name: count.clone() for name, count in counts.items()}
        device, dtype = parameters[0].device, parameters[0].dtype
        factors = {
            name: torch.full((), weight, device=device, dtype=dtype)
            for name, weight in weights.items()
        }
        names: list[str] = []
        used: list[bool] = []

        def step() -> list[torch.Tensor]:
            terms, gradients = differentiate(
                fixed, fixed_counts, factors, evaluate, parameters
            )
            names[:] = terms
            used[:] = [gradient is not None for gradient in gradients]
            return [*terms.values(), *(g for g in gradients if g is not None)]

        replay, outputs = self._record(step)
        inputs = [*_tensors_of(fixed), *fixed_counts.values(), *factors.values()]
        return _Recording(inputs, outputs, names, used, replay)


def _describe(
    work: Sequence[Work],
    tensors: Sequence[torch.Tensor],
    weights: Mapping[str, float],
    parameters: Sequence[torch.nn.Parameter],
) -> tuple[Any, ...]:
    """What two steps have in common if one is the other with different numbers."""
    return (
        tuple(
            (
                part.source,
                part.request and (part.request.kind, part.request.huber_delta),
            )
            for part in work
        ),
        tuple((tensor.shape, tensor.dtype) for tensor in tensors),
        tuple(weights),
        tuple(parameter.data_ptr() for parameter in parameters),
    )


def _map_work(part: Work, change: Callable[[torch.Tensor], torch.Tensor]) -> Work:
    request = part.request
    if request is not None:
        request = replace(
            request,
            tangents=change(request.tangents),
            targets=change(request.targets),
        )
    return Work(part.source, map_tensors(part.structures, change), request)


def _tensors_of(work: Sequence[Work]) -> list[torch.Tensor]:
    """All tensors, in the order in which ``_map_work`` meets them."""
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    for part in work:
        _map_work(part, note)
    return found
