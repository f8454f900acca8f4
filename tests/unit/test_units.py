from __future__ import annotations

import pytest

from pft_lightning.errors import ConfigError
from pft_lightning.units import (
    calculator_from_frequency_factor,
    calculator_from_unit_names,
    has_unit_names,
    known_calculators,
    unit_system,
)


BOHR, RYDBERG = 0.529177, 13.6057


def test_qe() -> None:
    units = unit_system("qe")
    assert units.length == pytest.approx(BOHR, rel=1e-5)
    assert units.force == pytest.approx(RYDBERG / BOHR, rel=1e-5)
    assert units.force_constants == pytest.approx(RYDBERG / BOHR**2, rel=1e-5)
    assert unit_system("Ry/au").description == units.description


@pytest.mark.parametrize("calculator", known_calculators())
def test_force_constants_are_force_over_length(calculator: str) -> None:
    units = unit_system(calculator)
    assert units.force_constants == pytest.approx(units.force / units.length)
    length, force = units.description.split(", ")[1:3]
    assert has_unit_names(units, length, force)
    found = calculator_from_unit_names(length, force)
    assert found is not None
    assert unit_system(found).force_constants == pytest.approx(units.force_constants)


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="accepted: abacus"):
        unit_system("furlong")
    assert calculator_from_unit_names("furlong", "stone") is None
    assert calculator_from_frequency_factor(15.633302) == "vasp"
    assert calculator_from_frequency_factor(108.97077) == "qe"
    assert calculator_from_frequency_factor(33.3) is None
