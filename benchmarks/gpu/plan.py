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
    # Numbers: these share the machine.
    *(
        Check(f"exact_{name}", 120, partial(exactness.exact, name=name))
        for name in FRAMEWORKS
    ),
    *(
        Check(f"conformance_{name}", 120, partial(exactness.conformance, name=name))
        for name in FRAMEWORKS
    ),
    # Trainings that are compared, not timed.
    Check("waits", 90, training.waits),
    Check("out_of_memory", 90, training.out_of_memory),
    Check("resume_deterministic", 90, partial(training.resume, deterministic=True)),
    Check("resume", 90, partial(training.resume, deterministic=False)),
    Check("two_processes", 90, training.two_processes),
    # Times.
    Check("launches", 60, cost.launches, alone=True),
    Check("graphs", 60, graphs.graphs, alone=True),
    Check("cost", 120, cost.cost, alone=True),
    Check("pace_8", 120, partial(training.pace, n_workers=8), alone=True),
    Check("pace_0", 120, partial(training.pace, n_workers=0), alone=True),
    Check("cost_others", 60, cost.cost_others, alone=True),
    Check("openequivariance", 90, cost.openequivariance, alone=True),
    # JAX compiles for two minutes, more beside others.
    Check("jax_compiles", 160, cost.compile_jax, alone=True),
    Check("cost_jax", 100, cost.cost_jax, alone=True),
)
