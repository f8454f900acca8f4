"""Weights of loss terms that set themselves, by the gradients of the terms.

Two recipes whose weights were found by hand, of two potentials and two kinds of labels,
give the same terms the same shares of the gradient (benchmarks/balance). ``SHARES`` are
those shares, and a weight that is to be found is the one that gives a term its share.
Mean absolute errors and norms suit this: their gradients do not shrink with the errors,
so that frames with a model's own labels, whose errors start at rounding, have weights
too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch

from pft_lightning.errors import ConfigError
from pft_lightning.losses import mean_over_processes
from pft_lightning.training.splitting import Gradients


AUTO: Final = "auto"
HVP: Final = "phonon_hvp"

# Norms of gradients of weighted terms, in that of Hessian-vector products.
SHARES: Final = MappingProxyType(
    {
        HVP: 1.0,
        "phonon_forces": 1 / 40,
        "upstream_energy": 1 / 3,
        "upstream_forces": 1 / 3,
        "upstream_stress": 1 / 20,
    }
)
# Largest weights, in that of Hessian-vector products: ten times those of the recipes.
# Forces that vanish by symmetry have gradients of rounding alone.
MOST: Final = MappingProxyType(
    {
        "phonon_forces": 1 / 6,
        "upstream_energy": 4.0,
        "upstream_forces": 3.0,
        "upstream_stress": 10.0,
    }
)
# Norm of the gradient of Hessian-vector products where no other term has a number:
# clipping at the default of 100 then takes what is unusually large, as in the recipes.
NORM: Final = 100.0
# Each term is measured in its first steps, then now and again. A measurement counts at
# least 1 / MEMORY, so that the weights follow the training, slowly.
FIRST, EVERY, MEMORY = 8, 50, 20


class LossBalance:
    """Weights that give terms of the loss their shares of the gradient.

    Measured are gradients of the global batch, so that the weights are the same on all
    processes, and those of one process with the whole batch. What was measured is a
    part of checkpoints.

    Args:
        weights: by term (a name of ``SHARES``) its number, or ``auto``.

    Raises:
        ConfigError: a term has no share, or Hessian-vector products no weight.
    """

    def __init__(self, weights: Mapping[str, float | str]) -> None:
        for term, weight in weights.items():
            if weight == AUTO and term not in SHARES:
                known = ", ".join(map(_option, SHARES))
                raise ConfigError(
                    f"loss.{_option(term)}=auto: only {known} set themselves; give a "
                    "number."
                )
        self._auto = [term for term in SHARES if weights.get(term) == AUTO]
        self._numbers = {
            term: float(weight)
            for term, weight in weights.items()
            if weight != AUTO and float(weight) > 0
        }
        if self._auto and HVP not in (*self._auto, *self._numbers):
            raise ConfigError(
                f"loss.{_option(self._auto[0])}=auto: weights are set beside that of "
                "Hessian-vector products, and loss.phonon.hvp is 0. Give numbers, or "
                "loss.phonon.hvp=auto."
            )
        # Of each term: mean square of the norm, measurements, steps.
        self._found: dict[str, tuple[float, int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._auto)

    @property
    def settled(self) -> bool:
        """Whether all terms have had their first steps, with a reference or without."""
        steps = [n_steps for _, _, n_steps in self._found.values()]
        return HVP in self._found and min(steps) >= FIRST

    @property
    def weights(self) -> dict[str, float]:
        """The weights found so far, by term."""
        hvp = self._weight_of_hvp()
        norm = self._norm(HVP)
        if hvp is None or norm is None:
            return {}
        found = {HVP: hvp} if HVP in self._auto else {}
        for term in self._auto:
            own = self._norm(term)
            if term != HVP and own is not None:
                found[term] = hvp * min(SHARES[term] * norm / own, MOST[term])
        return found

    def is_due(self, terms: Collection[str]) -> bool:
        """Count a step; tell whether the gradients of its terms are to be measured.

        Args:
            terms: of the step, the same on all processes.
        """
        due = False
        for term in SHARES:
            if term in terms:
                square, n_measured, n_steps = self._found.get(term, (0.0, 0, 0))
                due |= n_steps < FIRST or n_steps % EVERY == 0
                self._found[term] = (square, n_measured, n_steps + 1)
        return due

    def weigh(
        self,
        given: Mapping[str, float],
        gradients: Mapping[str, Gradients],
        parameters: Sequence[torch.Tensor],
    ) -> dict[str, float]:
        """Weights of a step whose gradients are measured.

        Args:
            given: of its terms.
            gradients: of this process by term, the same terms on all.
            parameters: that are trained.
        """
        shared = {term: g for term, g in gradients.items() if term in SHARES}
        if shared:
            self.measure(squared_norms(shared, parameters))
        return self.apply(given)

    def measure(self, squares: Mapping[str, float]) -> None:
        """Take note of gradients.

        Args:
            squares: of the norms of gradients of terms without their weights. Zeros,
                of terms without a reference, and what is not finite do not count.
        """
        for term, square in squares.items():
            if term in self._found and 0 < square < math.inf:
                mean, n_measured, n_steps = self._found[term]
                n_measured += 1
                mean += (square - mean) / min(n_measured, MEMORY)
                self._found[term] = (mean, n_measured, n_steps)

    def apply(self, given: Mapping[str, float]) -> dict[str, float]:
        """Put the weights found into those of a step.

        Args:
            given: of its terms; those of terms that are not measured yet stay.
        """
        found = self.weights
        return {term: found.get(term, weight) for term, weight in given.items()}

    def describe(self) -> str:
        """The weights as options of a command."""
        options = [
            f"loss.{_option(term)}={weight:.4g}"
            for term, weight in self.weights.items()
        ]
        return " ".join(options)

    def state_dict(self) -> dict[str, list[float]]:
        """What a resumed run needs to continue with the same weights."""
        return {term: list(found) for term, found in self._found.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where the checkpoint stopped."""
        self._found = {
            term: (float(square), int(n_measured), int(n_steps))
            for term, (square, n_measured, n_steps) in state_dict.items()
        }

    def _norm(self, term: str) -> float | None:
        square, n_measured, _ = self._found.get(term, (0.0, 0, 0))
        return math.sqrt(square) if n_measured else None

    def _weight_of_hvp(self) -> float | None:
        """The number given, or the share beside terms of frames that have numbers."""
        if HVP in self._numbers:
            return self._numbers[HVP]
        norm = self._norm(HVP)
        if norm is None:
            return None
        weighted = shares = 0.0
        for term, weight in self._numbers.items():
            own = self._norm(term)
            if term.startswith("upstream_") and own is not None:
                weighted += (weight * own) ** 2
                shares += SHARES[term] ** 2
        return (math.sqrt(weighted / shares) if shares else NORM) / norm


def loss_weights(loss: Mapping[str, Mapping[str, Any]]) -> dict[str, float | str]:
    """Weights of the terms of ``SHARES``, and of others that ask to be found.

    Args:
        loss: ``phonon`` and ``upstream``: weights by quantity.
    """
    named = {
        f"{source}_{quantity}": weight
        for source in ("phonon", "upstream")
        for quantity, weight in (loss.get(source) or {}).items()
    }
    return {
        term: weight
        for term, weight in named.items()
        if term in SHARES or weight == AUTO
    }


def squared_norms(
    gradients: Mapping[str, Gradients], parameters: Sequence[torch.Tensor]
) -> dict[str, float]:
    """Squares of the norms of gradients of the global batch.

    Args:
        gradients: of this process by term, the same terms on all; of each parameter.
        parameters: that are trained.
    """
    squares = []
    for of_term in gradients.values():
        flat = [
            (torch.zeros_like(p) if gradient is None else gradient).flatten()
            for p, gradient in zip(parameters, of_term, strict=True)
        ]
        mean = mean_over_processes(torch.cat(flat))
        squares.append(mean.double().square().sum())
    return dict(zip(gradients, torch.stack(squares).tolist(), strict=True))


def _option(term: str) -> str:
    return term.replace("_", ".", 1)
