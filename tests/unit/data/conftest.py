from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from molecular_files import molecule


@pytest.fixture
def water() -> tuple[Atoms, np.ndarray]:
    """A molecule and its Hessian, eV/Å²."""
    return molecule("H2O")
