"""What a training shows while it runs."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import lightning
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from tqdm.auto import tqdm

from pft_lightning.training.balance import LossBalance
from pft_lightning.training.validation import MONITOR


# Metrics of a validation that are shown, by what they are called, with their units.
_SHOWN: Final = {
    MONITOR: ("H v", "eV/Å²"),
    "upstream/forces_mae": ("upstream forces", "eV/Å"),
}


_FORMAT: Final = (
    "{desc} {n_fmt}/{total_fmt} {percentage:.0f}% {elapsed}, {remaining} left{postfix}"
)


class RunProgress(ProgressBar):
    """One line with the steps, the time that is left and the losses by source.

    After each validation a line stays, with its errors beside those of the weights
    that training started from. Where nobody watches (a file, a pipe) the line is
    written anew from time to time.

    Args:
        interval: Seconds between two lines in a file.
    """

    def __init__(self, interval: float = 30.0) -> None:
        super().__init__()
        self.interval = interval
        self._enabled = True
        self._bar: tqdm[Any] | None = None
        self._validation: tqdm[Any] | None = None
        self._base: dict[str, float] = {}
        self._started = self._written = 0.0
        self._first = 0
        self._tells_weights = False

    def disable(self) -> None:
        """Show nothing, as on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show it again."""
        self._enabled = True

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Begin to count, at the step of the checkpoint in a resumed run."""
        self._first = trainer.global_step
        balance = _balance(pl_module)
        self._tells_weights = balance is not None and not balance.settled
        self._started = self._written = time.monotonic()
        if self._enabled:
            self._bar = tqdm(
                total=_total_steps(trainer),
                initial=self._first,
                desc="training",
                unit="step",
                dynamic_ncols=True,
                disable=not _is_watched(),
                bar_format=_FORMAT,
            )

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show the step and its losses, and once the weights that were found."""
        if self._bar is None:
            return
        balance = _balance(pl_module)
        if self._tells_weights and balance is not None and balance.settled:
            self._tells_weights = False
            self._print(f"weights of the loss, found: {balance.describe()}")
        is_shown = not self._bar.disable
        now = time.monotonic()
        # Reading a loss waits for the device: not more often than somebody can look.
        interval = self._bar.mininterval if is_shown else self.interval
        is_last = trainer.global_step == self._bar.total
        if now - self._written >= interval or (is_shown and is_last):
            self._written = now
            losses = _losses(trainer.progress_bar_metrics)
            if is_shown:
                self._bar.set_postfix_str(losses, refresh=False)
            else:
                self._print(self._line(trainer, now, losses))
        self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Show how far the validation is."""
        if self._enabled and not trainer.sanity_checking:
            self._validation = tqdm(
                total=sum(trainer.num_val_batches),
                desc="validating",
                unit="batch",
                leave=False,
                dynamic_ncols=True,
                disable=not _is_watched(),
            )

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        if self._validation is not None:
            self._validation.update()

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Leave a line with the errors; the first are those of the base model."""
        if self._validation is not None:
            self._validation.close()
            self._validation = None
        errors = {
            name: float(trainer.callback_metrics[name])
            for name in _SHOWN
            if name in trainer.callback_metrics
        }
        if trainer.state.fn == TrainerFn.FITTING:
            self._print(f"step {trainer.global_step}: {_errors(errors, self._base)}")
        elif not trainer.global_step:
            self._base = errors
            self._print(f"before training: {_errors(errors, {})}")

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Leave the line as it is."""
        self._close()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Leave the line, so that the message stands below it."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Errors of the base model, which a resumed run does not validate again."""
        return {"base": dict(self._base)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint stopped."""
        self._base = dict(state_dict["base"])

    def _line(self, trainer: lightning.Trainer, now: float, losses: str) -> str:
        """Step, time passed and left, and losses."""
        step, total = trainer.global_step, _total_steps(trainer)
        passed = now - self._started
        parts = [f"step {step}" if total is None else f"step {step}/{total}"]
        parts.append(f"{tqdm.format_interval(passed)} passed")
        done = step - self._first
        if total is not None and done:
            left = passed / done * (total - step)
            parts.append(f"{tqdm.format_interval(left)} left")
        return ", ".join(filter(None, [*parts, losses]))

    def _print(self, line: str) -> None:
        if self._enabled:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def _close(self) -> None:
        for bar in (self._validation, self._bar):
            if bar is not None:
                bar.close()
        self._bar = self._validation = None


def _balance(module: lightning.LightningModule) -> LossBalance | None:
    """What finds weights of the loss, if any are to be found."""
    balance = getattr(module, "balance", None)
    return balance if isinstance(balance, LossBalance) and balance else None


def _is_watched() -> bool:
    """Whether a line that changes is seen: in a terminal, or a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _total_steps(trainer: lightning.Trainer) -> int | None:
    total = trainer.estimated_stepping_batches
    return None if math.isinf(total) else int(total)


def _losses(metrics: Mapping[str, Any]) -> str:
    """Losses of the last step by source."""
    shown = [
        f"{name.removeprefix('train/').removesuffix('_loss')} {float(value):.3g}"
        for name, value in metrics.items()
        if name.startswith("train/") and name.endswith("_loss")
    ]
    return f"loss of {', '.join(shown)}" if shown else ""


def _errors(errors: Mapping[str, float], base: Mapping[str, float]) -> str:
    parts = []
    for name, value in errors.items():
        what, unit = _SHOWN[name]
        before = f" (base {base[name]:.4g})" if name in base else ""
        parts.append(f"{what} {value:.4g} {unit}{before}")
    return ", ".join(parts)
