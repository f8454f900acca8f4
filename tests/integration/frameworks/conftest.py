"""Networks that several files of tests begin from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def foundation(tmp_path_factory) -> Path:
    """Random network that knows one element more than the frames."""
    from mace_runs import E0S
    from models import build_mace

    path = tmp_path_factory.mktemp("foundation") / "foundation.model"
    torch.save(build_mace("scale_shift", atomic_numbers=(*sorted(E0S), 32)), path)
    return path
