"""Names of elements in files, isotopes of hydrogen among them."""

from __future__ import annotations

import re
from typing import Any, Final

from ase.data import atomic_numbers

from pft_lightning.errors import DataFormatError


# Names of isotopes, with their element and mass in AMU (AME 2020).
ISOTOPES: Final = {"D": ("H", 2.01410178), "T": ("H", 3.01604928)}


def read_element(name: Any, what: str, where: str) -> tuple[str, float | None]:
    """Read the name of an element, or of an isotope of hydrogen.

    Args:
        name: "Fe", "Fe1" (phonopy tells sites of one element apart so), "D", ...
        what: of the value in the file, for messages.
        where: the file, for messages.

    Returns:
        The symbol as phonopy takes it, and the mass in AMU where the name is that of
        an isotope.

    Raises:
        DataFormatError: there is no such element.
    """
    text = str(name)
    parts = re.fullmatch(r"([A-Za-z]+)(\d*)", text)
    letters = parts[1] if parts else ""
    if letters in ISOTOPES:
        symbol, mass = ISOTOPES[letters]
        return symbol, mass
    # ASE calls a dummy atom X.
    if isinstance(name, str) and atomic_numbers.get(letters, 0) > 0:
        return text, None
    likely = letters.capitalize()
    hint = f" Is {likely} meant? Write it so." if likely in atomic_numbers else ""
    raise DataFormatError(
        f"{where}: {what} is {name!r}, which is no element.{hint} Symbols as in the "
        "periodic table are accepted (Al, Na; D and T for hydrogen's isotopes)."
    )
