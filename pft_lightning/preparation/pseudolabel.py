"""Labels of a base model, so that a training can replay what the model knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import ase
from ase.calculators.singlepoint import SinglePointCalculator

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.calculator import Calculator
from pft_lightning.data.readers.targets import without_targets


def pseudolabel(
    model: EnergyModel, structures: Iterable[ase.Atoms]
) -> Iterator[ase.Atoms]:
    """Give structures the energy, forces and stress of a model.

    Written as extended XYZ they are an ordinary upstream source: co-training on them
    keeps the model near what it was, without the data that it was trained on.

    Args:
        model: whose knowledge is to be kept, before fine-tuning.
        structures: any that are like those of its use.

    Yields:
        Copies with the labels as ASE results, and ``info["labels"]`` saying whose.

    Raises:
        ConfigError: the model lacks an element of a structure.
    """
    calculator = Calculator(model)
    for structure in structures:
        # Labels of others, and their weights, would be read in place of these.
        labelled = without_targets(structure)
        # ASE sets the forces on atoms that a relaxation held fixed to zero.
        labelled.set_constraint()
        labelled.calc = calculator
        # The stress first: energy and forces come with it, and not the other way.
        results = {"stress": labelled.get_stress()} if labelled.pbc.all() else {}
        results |= {
            "energy": labelled.get_potential_energy(),
            "forces": labelled.get_forces(),
        }
        labelled.calc = SinglePointCalculator(labelled, **results)
        labelled.info["labels"] = model.name
        yield labelled
