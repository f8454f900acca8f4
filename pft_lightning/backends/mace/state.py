"""What importing and building MACE changes in a process, undone."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def keep_global_state() -> Iterator[None]:
    """Undo what importing MACE and building its models does to the process.

    MACE sets an environment variable that makes every later ``torch.load`` execute
    pickles without asking, and its builders depend on torch's default dtype.
    """
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before, dtype = os.environ.get(variable), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before


# In one block: e3nn 0.4.4 opens its constants when it is imported, which torch allows
# while MACE's variable is set, with a warning. MACE's tools print that a library for
# GPUs, which is not used here, is not installed.
with (
    keep_global_state(),
    warnings.catch_warnings(),
    contextlib.redirect_stdout(io.StringIO()),
):
    warnings.filterwarnings(
        "ignore", "Environment variable TORCH_FORCE_", UserWarning, r"e3nn\."
    )
    import mace.tools  # noqa: F401
    import e3nn.o3  # noqa: F401  isort: skip
