"""Minimisers of ASE, watched for what runs away."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.optimize.optimize import Optimizer

from pft_lightning.errors import PFTError, RelaxationError


def run_optimiser(
    optimiser: Optimizer,
    fmax: float,
    max_steps: int,
    problem: Callable[[], str | None],
) -> bool:
    """Run an optimiser until forces are small or its steps are used up.

    Args:
        optimiser: of ASE.
        fmax: largest force of a structure that has converged, eV/Å.
        max_steps: most steps.
        problem: says after each step what has run away; None where nothing has.

    Returns:
        Whether it converged.

    Raises:
        RelaxationError: something ran away.
    """
    with warnings.catch_warnings():
        # scipy's matrix logarithm remarks on rounding when the cell has not moved.
        warnings.filterwarnings("ignore", message="logm result may be inaccurate")
        try:
            for converged in optimiser.irun(fmax, max_steps):
                if (reason := problem()) is not None:
                    raise RelaxationError(
                        f"the relaxation exploded: after {optimiser.nsteps} steps "
                        f"{reason}."
                    )
                if converged:
                    return True
        except PFTError:
            # Some of ours are ValueErrors too: an unknown element is no explosion.
            raise
        except (ValueError, FloatingPointError, np.linalg.LinAlgError) as error:
            # What numpy, scipy and neighbour lists raise over NaN and infinity.
            raise RelaxationError(
                f"the relaxation exploded after {optimiser.nsteps} steps "
                f"({type(error).__name__}: {error})."
            ) from error
    return False


def relaxation_problem(
    atoms: Atoms, limits: tuple[float, float]
) -> Callable[[], str | None]:
    """Make what says whether a crystal that is relaxed has run away since.

    Args:
        atoms: that are relaxed, with their calculator.
        limits: of the volume, relative to the present one.
    """
    volume = atoms.get_volume()
    low, high = limits

    def problem() -> str | None:
        # Libraries crash on positions that such a step would lead to.
        results = getattr(atoms.calc, "results", {})
        for name in ("energy", "forces", "stress"):
            value = results.get(name)
            if value is not None and not np.isfinite(value).all():
                return f"the potential's {name} is not finite"
        ratio = atoms.get_volume() / volume
        if low < ratio < high:
            return None
        return (
            f"the volume is {ratio:.3g} times the reference's; between {low} and "
            f"{high} is expected"
        )

    return problem
