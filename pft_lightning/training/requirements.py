"""What a trainer has to be set to where derivatives are trained on."""

from __future__ import annotations

import lightning

from pft_lightning.errors import ConfigError


def check_differentiates(trainer: lightning.Trainer) -> None:
    """Refuse settings under which derivatives cannot be taken, before the first step.

    Raises:
        ConfigError: validations are in inference mode, or numbers in half precision.
    """
    for loop in (trainer.validate_loop, trainer.fit_loop.epoch_loop.val_loop):
        if loop.inference_mode:
            raise ConfigError(
                "Trainer(inference_mode=True) cannot validate: forces and "
                "Hessian-vector products need derivatives. Use "
                "Trainer(inference_mode=False)."
            )
    precision = str(trainer.precision)
    if "16" in precision or "transformer" in precision:
        raise ConfigError(
            f"trainer.precision={precision}: half precision is not enough for "
            "second derivatives (docs/speed.md has its errors), and MACE and "
            "NequIP do not run in it. Use trainer.precision=32-true, or 64-true."
        )
