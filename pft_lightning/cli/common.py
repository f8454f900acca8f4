"""What all commands share: resolvers, and errors without a traceback."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pft_lightning.errors import PFTError


# Remarks of libraries that a user can do nothing about.
for _message in (
    ".*flops_per_batch.*",
    ".*treespec, LeafSpec.*",
    ".*torch.jit.script. is deprecated.*",
    ".*TorchScript type system doesn't support.*",
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*'pin_memory' argument is set as true but no accelerator.*",
):
    warnings.filterwarnings("ignore", message=_message)

# What Lightning advertises, and what the progress of a run says too.
_SILENCED = ("Tip: For seamless", "TPU available", "`Trainer.fit` stopped: `max_")
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
    lambda record: not any(text in record.getMessage() for text in _SILENCED)
)

# ${pft_example:base.model} is a file of the example that ships in the package.
OmegaConf.register_new_resolver(
    "pft_example",
    lambda name: str(files("pft_lightning") / "example" / name),
    replace=True,
)


def report_errors(
    command: Callable[[DictConfig], None],
) -> Callable[[DictConfig], Any]:
    """Print expected errors of a command as one message and exit with status 2.

    A full traceback appears with ``PFT_TRACEBACK=1``, and always for errors that
    nobody foresaw.
    """

    @functools.wraps(command)
    def wrapped(config: DictConfig) -> None:
        try:
            command(config)
        except Exception as error:
            cause = expected_cause(error)
            if cause is None or shows_tracebacks():
                raise
            print(f"error: {describe(cause)}", file=sys.stderr)
            sys.exit(2)

    return wrapped


def shows_tracebacks() -> bool:
    """Tell whether the user wants to see where an error was raised."""
    return bool(os.environ.get("PFT_TRACEBACK"))


def expected_cause(error: BaseException) -> BaseException | None:
    """The error in a chain of causes whose message tells a user what to do.

    The file system's are among them: full disks, folders without permission.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (PFTError, OmegaConfBaseException)):
            return cause
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause
        cause = cause.__cause__
    return None


def describe(error: BaseException) -> str:
    """What to print of an expected error."""
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key or 'configuration'}: {error.msg or error}"
    if isinstance(error, PFTError) or not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror} (PFT_TRACEBACK=1 shows what was being done)"
