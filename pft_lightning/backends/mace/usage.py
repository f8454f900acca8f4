"""What people are told who are handed a MACE file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pft_lightning.backends.mace import portable as mace_portable


_MACE_E3NN = "0.4.4"  # what mace-torch pins


def describe(name: str, heads: Sequence[str], head: str | None) -> str:
    """How a file is loaded, as Markdown.

    Args:
        name: of the file.
        heads: of the network.
        head: in use.
    """
    if name.endswith(mace_portable.SUFFIX):
        return f"""\
This is the portable form, weights and a description of the network. It runs no code
when it is read. Write MACE's own form where it shall be used:

```
pip install "pft_lightning[mace]"
pft-export model.checkpoint={name} out=potential.model
```"""
    chosen = f', head="{head}"' if len(heads) > 1 else ""
    return f"""\
```python
from mace.calculators import MACECalculator

atoms.calc = MACECalculator("{name}", device="cpu", default_dtype="float64"{chosen})
```

`mace_eval_configs` and `mace_create_lammps_model` take the file too. It was pickled
under e3nn {version("e3nn")}; under another one, e.g. 0.6 instead of 0.4.4, MACE cannot
open it, but `pft-export model.checkpoint={name} out=other.model` there writes one that
it can."""


def remark(path: Path) -> str | None:
    """What to know where a file was written with another e3nn than MACE pins."""
    e3nn = version("e3nn")
    if path.name.endswith(mace_portable.SUFFIX) or e3nn == _MACE_E3NN:
        return None
    return (
        f"pickled under e3nn {e3nn}: where MACE has its own e3nn {_MACE_E3NN}, write "
        f"it again from a portable file (out={path.stem}{mace_portable.SUFFIX})"
    )
