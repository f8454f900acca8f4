"""Checks that the device gives the numbers of the CPU."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from processes import start, wait
from steps import QUANTITIES, compute, load, relative_error
from visit import Visit

from pft_lightning.testing import (
    TOLERANCES,
    build_tiny_crystals,
    check_backend_conformance,
)
from pft_lightning.types import Engine


ENGINES: tuple[Engine, ...] = ("reverse_over_reverse", "forward_over_reverse")
DOUBLE = 1e-12
# Single precision: at least this, or ten times the error of the CPU.
SINGLE = 1e-5
FRAMEWORK = {"PFT_LIGHTNING_COMPILE": "0"}


def conformance(visit: Visit, name: str) -> None:
    """All checks that a backend must pass, in double precision."""
    torch.set_num_threads(visit.threads)
    model = load(visit.model(name), "float64", visit.device)
    # More calls to warm up, which TorchScript may need, are made in tests on the CPU.
    tolerances = replace(TOLERANCES, warm_up=2 if visit.on_gpu else 1)
    crystals = build_tiny_crystals(model.atomic_numbers, model.cutoff)
    found = check_backend_conformance(
        model,
        {name: crystals[name] for name in visit.sizes.crystals},
        tolerances=tolerances,
        device=visit.device,
    )
    for check, error in found.items():
        visit.report(check, error)


def exact(visit: Visit, name: str) -> None:
    """E, F, S, H v and gradients with and without kernels of ours, against the CPU.

    The CPU's are those of the framework's own operations: of the pack where it has
    them, and else made here.
    """
    path, folder = visit.model(name), visit.work / f"exact-{name}"
    folder.mkdir(parents=True)
    cells = visit.sizes.cells
    packed = visit.reference(name)
    structures = None if packed is None else read(packed)["structures"]
    run = partial(compute, path, structures)
    double: dict[str, Any] = {"dtype": "float64", "device": visit.device}
    single: dict[str, Any] = {"dtype": "float32", "device": visit.device}
    wanted: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
        "kernels": (double | {"engines": ENGINES}, {}),
        "framework": (double | {"engines": ENGINES}, FRAMEWORK),
        "float32": (single, {}),
        "cpu float32": ({"dtype": "float32", "device": "cpu"}, FRAMEWORK),
    }
    if visit.on_gpu:
        wanted["TF32"] = (single | {"tf32": True}, {})
    if packed is None:
        wanted["cpu"] = ({"dtype": "float64", "device": "cpu"}, FRAMEWORK)
    load(path, "float32", "cpu")  # skips here where there is no framework
    wait(
        *(
            start(
                partial(run, folder / f"{key}.pt", cells=cells, **options),
                environment=environment,
                threads=visit.threads,
            )
            for key, (options, environment) in wanted.items()
        )
    )
    found = {key: read(folder / f"{key}.pt") for key in wanted}
    expected = (found["cpu"] if packed is None else read(packed))[ENGINES[0]]
    _compare(visit, found, expected)


def _compare(
    visit: Visit, found: dict[str, Any], expected: dict[str, torch.Tensor]
) -> None:
    def error(key: str, quantity: str, engine: Engine = ENGINES[0]) -> float:
        return relative_error(found[key][engine][quantity], expected[quantity])

    for quantity in QUANTITIES:
        for key in ("kernels", "framework"):
            for engine in ENGINES:
                what = f"{quantity}, {key}, {engine}"
                visit.report(what, error(key, quantity, engine), bound=DOUBLE)
        bound = max(SINGLE, 10 * error("cpu float32", quantity))
        what = f"{quantity}, float32"
        visit.report(what, error("float32", quantity), bound=bound)
        if "TF32" in found:
            visit.report(f"{quantity}, TF32", error("TF32", quantity))
    for key in ("kernels", "framework"):
        visit.report(f"first step, {key}", found[key]["first_s"], "s")


def read(path: Path) -> dict[str, Any]:
    """What ``compute`` wrote; files of our own."""
    results: dict[str, Any] = torch.load(path, weights_only=False)
    return results
