"""The checks of a visit, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cost
import exactness
import graphs
import training
from versions import versions
from visit import Visit


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: in the table.
        limit: s; what has not ended then is stopped.
        run: reports numbers; raises ``Skip`` or any error.
        alone: nothing else runs meanwhile, so that times are right.
    """

    name: str
    limit: int
    run: Callable[[Visit], None]
    alone: bool = False


FRAMEWORKS = ("nequix", "mace", "nequip", "sevennet")
CHECKS = (
    Check("versions", 40, versions),
    # Numbers, and what has to be compiled: these share the machine.
    *(
        Check(f"exact_{name}", 80, partial(exactness.exact, name=name))
        for name in FRAMEWORKS
    ),
    *(
        Check(f"conformance_{name}", 90, partial(exactness.conformance, name=name))
        for name in FRAMEWORKS
    ),
    Check("jax_compiles", 100, cost.compile_jax),
    # Times.
    Check("cost", 180, cost.cost, alone=True),
    Check("launches", 40, cost.launches, alone=True),
    Check("graphs", 40, graphs.graphs, alone=True),
    Check("pace_8", 110, partial(training.pace, n_workers=8), alone=True),
    # Trainings that are compared, not timed.
    Check("waits", 90, training.waits),
    Check("out_of_memory", 90, training.out_of_memory),
    Check("resume_deterministic", 90, partial(training.resume, deterministic=True)),
    Check("resume", 90, partial(training.resume, deterministic=False)),
    Check("two_processes", 90, training.two_processes),
    Check("pace_0", 110, partial(training.pace, n_workers=0), alone=True),
    Check("cost_others", 60, cost.cost_others, alone=True),
    Check("openequivariance", 90, cost.openequivariance, alone=True),
)
