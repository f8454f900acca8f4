"""What callbacks that evaluate a potential in validations have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng

from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.reference import Material
from pft_lightning.training.module import PhononFineTuning


_Found = TypeVar("_Found")
_Content = TypeVar("_Content")


class ValidationEvaluation(Callback, Generic[_Found]):
    """An evaluation that is due in some validations, and its totals.

    It is due at the first validation of a training and every n-th after it, and
    whenever ``trainer.validate`` is called. In the validations between, monitors see
    the last values. The weights are those that the validation uses: the moving average
    where there is one, whatever the order of the callbacks. Training goes on as if
    nothing had happened.

    Args:
        option: of the configuration, for messages.
        every_n_validations: from one to the next.
        in_bar: totals that the progress bar shows.

    Raises:
        ConfigError: the number is below 1.
    """

    def __init__(
        self, option: str, every_n_validations: int, in_bar: Sequence[str]
    ) -> None:
        check_least(option, "every_n_validations", every_n_validations, 1)
        self.every_n_validations = every_n_validations
        self._in_bar = tuple(in_bar)
        self._found: _Found | None = None
        self._validations = 0
        self._totals: dict[str, float] = {}

    @abstractmethod
    def evaluate(
        self, trainer: lightning.Trainer, pl_module: PhononFineTuning
    ) -> _Found:
        """Evaluate the potential of a module; on all processes."""

    @abstractmethod
    def totals_of(self, found: _Found) -> dict[str, float]:
        """Numbers to log, the same on all processes."""

    def show(self, trainer: lightning.Trainer, found: _Found) -> None:
        """Give loggers what is no number; on all processes."""

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Refuse modules without a potential.

        Raises:
            ConfigError: the module is another one.
        """
        if not isinstance(pl_module, PhononFineTuning):
            raise ConfigError(
                f"{type(self).__name__} cannot evaluate a {type(pl_module).__name__}; "
                "use it with pft_lightning.PhononFineTuning."
            )

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Let the monitors of a resumed run see what they would have seen."""
        trainer.callback_metrics.update(_as_tensors(self._totals, pl_module.device))

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Evaluate before the first batch.

        By then every callback has had its ``on_validation_epoch_start``, which is where
        the moving average takes the place of the weights; the end of the epoch, which
        swaps them back, may come to us after that.
        """
        if trainer.sanity_checking or batch_idx or dataloader_idx:
            return
        if trainer.state.fn == TrainerFn.FITTING:
            due = self._validations % self.every_n_validations == 0
            self._validations += 1
            if not due:
                return
        assert isinstance(pl_module, PhononFineTuning)
        with isolate_rng():
            self._found = self.evaluate(trainer, pl_module)

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Log the totals; all processes have the same."""
        if self._found is None:
            return
        found, self._found = self._found, None
        totals = self.totals_of(found)
        if trainer.state.fn == TrainerFn.FITTING:
            self._totals = totals
        for name, value in _as_tensors(totals, pl_module.device).items():
            pl_module.log(name, value, prog_bar=name in self._in_bar)
        self.show(trainer, found)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to evaluate, and to monitor, as if not killed."""
        return {"validations": self._validations, "totals": dict(self._totals)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint stopped."""
        self._validations = state_dict["validations"]
        self._totals = dict(state_dict["totals"])


def check_least(option: str, what: str, value: int, least: int) -> None:
    """Refuse a number that is too small.

    Raises:
        ConfigError: names the option.
    """
    if value < least:
        raise ConfigError(f"{option}.{what}={value}; at least {least}.")


def choose_materials(
    materials: list[Material[_Content]],
    n: int | None,
    names: Sequence[str] | None,
    option: str,
) -> list[Material[_Content]]:
    """Choose the materials that are watched.

    Args:
        materials: all of them.
        n: how many, at equal distances; None takes all.
        names: of those to take instead.
        option: of the configuration, for messages.

    Raises:
        ConfigError: a name is of none of them.
    """
    if names is not None:
        by_name = {material.name: material for material in materials}
        missing = [name for name in names if name not in by_name]
        if missing:
            known = ", ".join(list(by_name)[:10])
            raise ConfigError(
                f"{option}.names: no material is called {missing[0]!r}; expected some "
                f"of {known}{', …' if len(by_name) > 10 else ''}."
            )
        return [by_name[name] for name in names]
    if n is None or n >= len(materials):
        return materials
    # Files of one chemistry often lie side by side: spread over the list.
    return [materials[len(materials) * i // n] for i in range(n)]


def _as_tensors(
    totals: Mapping[str, float], device: torch.device
) -> dict[str, torch.Tensor]:
    # Lightning would make them float32, and bits would depend on where they come from.
    return {
        name: torch.tensor(value, dtype=torch.float64, device=device)
        for name, value in totals.items()
    }
