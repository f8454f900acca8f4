"""Checks of what a step costs: by ``hvp_cost``, by torch's profiler, and in waits."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from case import attempt
from devices import prepare
from exactness import FRAMEWORK
from pace import count_waits
from processes import Process, start, wait
from run import grid, group, parse_size
from steps import draw_tangents, load, silicon, take_step, time_step
from torch.profiler import ProfilerActivity, profile
from visit import Skip, Visit, read_rows

from pft_lightning.graphs import build_crystal_batch


OURS = ("pft", "pft_framework")
JAX = ("nequix_jax",)
OF_PEER = 150  # s, for all cases of a peer and model
# The targets: of our time in units of JAX's, and of a step with H v in units of one
# without, in time and in memory.
OF_JAX, TIME_OF_EFS, MEMORY_OF_EFS = 0.5, 2.2, 3.0


def measure(
    visit: Visit,
    models: list[str],
    peers: tuple[str, ...],
    repeats: int,
    *,
    at_once: bool = False,
) -> list[dict[str, Any]]:
    """Rows of ``hvp_cost``, reported as they come.

    Args:
        visit: where, and of which sizes.
        models: names of their files.
        peers: see ``hvp_cost``.
        repeats: of a step.
        at_once: start a process for each case, all together, in place of one for each
            peer and model, one after another: for what is not timed.
    """
    options = argparse.Namespace(
        models=[(n.partition(".")[0], str(visit.model(n))) for n in models],
        peers=peers,
        sizes=[parse_size(size) for size in visit.sizes.cost],
        engines=["reverse_over_reverse", "forward_over_reverse"],
        probes=[1],
        direction="column",
        dtype="float32",
        device=visit.device,
        repeats=repeats,
    )
    rows: list[dict[str, Any]] = []
    groups = group(grid(options), together=not at_once)
    for turn in [groups] if at_once else [[cases] for cases in groups]:
        rows += _run(visit, turn, len(rows))
    return rows


def _run(
    visit: Visit, groups: list[list[dict[str, Any]]], number: int
) -> list[dict[str, Any]]:
    """Rows of some groups, each in a process of its own, all at once."""
    running: list[tuple[Process, list[dict[str, Any]], Path]] = []
    for cases in groups:
        out = visit.work / f"{visit.check}-{number + len(running)}.jsonl"
        out.touch()
        process = start(_attempt, visit, cases, out, threads=visit.threads)
        running.append((process, cases, out))
    limit = OF_PEER * visit.patience
    end = time.monotonic() + limit
    rows: list[dict[str, Any]] = []
    for process, cases, out in running:
        process.join(max(0.0, end - time.monotonic()))
        reason = "the process ended"
        if process.is_alive():
            process.kill()
            process.join()
            reason = f"not finished in {limit:.0f} s"
        found = [json.loads(x) for x in out.read_text().splitlines()]
        missing = [
            case | {"model": Path(case["model"]).name, "error": reason}
            for case in cases[len(found) :]
        ]
        for row in missing:
            _report(visit, row)
        rows += found + missing
    return rows


def _attempt(visit: Visit, cases: list[dict[str, Any]], out: Path) -> None:
    prepare(visit.device)
    with out.open("w", buffering=1) as file:
        for case in cases:
            result = attempt(case)
            result["model"] = Path(case["model"]).name
            _report(visit, result)
            file.write(json.dumps(result) + "\n")


def cost(visit: Visit) -> None:
    """Ours, with and without our kernels."""
    rows = measure(visit, ["nequix.pt"], OURS, visit.sizes.repeats)
    _compare(visit, rows)
    _check_errors(rows)


def compile_jax(visit: Visit) -> None:
    """Fill JAX's cache of compiled steps."""
    _check_errors(measure(visit, ["nequix.nqx"], JAX, repeats=1, at_once=True))


def cost_jax(visit: Visit) -> None:
    """JAX, beside what ``cost`` found."""
    rows = measure(visit, ["nequix.nqx"], JAX, visit.sizes.repeats)
    ours = [
        row["row"]
        for row in read_rows(visit.rows)
        if row["check"] == "cost" and "row" in row
    ]
    _compare(visit, ours + rows)
    _check_errors(rows)


def _compare(visit: Visit, rows: list[dict[str, Any]]) -> None:
    """Report quotients of what was measured."""
    times = _best(rows, "median_s")
    memory = _best(rows, "peak_memory_mib")
    for (peer, step, size), seconds in times.items():
        if peer != "pft":
            continue
        what = f"{step} {size}: ours"
        if theirs := times.get(("nequix_jax", step, size)):
            visit.report(f"{what}/JAX", seconds / theirs, goal=OF_JAX)
        if framework := times.get(("pft_framework", step, size)):
            visit.report(f"{what}/not compiled", seconds / framework)
        if step == "hvp" and (forces := times.get((peer, "efs", size))):
            visit.report(f"{what}/efs", seconds / forces, goal=TIME_OF_EFS)
            bytes_of = [memory.get((peer, s, size)) for s in ("hvp", "efs")]
            if visit.on_gpu and bytes_of[0] and bytes_of[1]:
                more = bytes_of[0] / bytes_of[1]
                visit.report(f"{what}/efs, memory", more, goal=MEMORY_OF_EFS)


def cost_others(visit: Visit) -> None:
    """Ours, of the other frameworks."""
    models = [
        path.name
        for name in ("mace", "nequip", "sevennet")
        for path in _models(visit, name)
    ]
    if not models:
        raise Skip("none of their models is in the pack")
    _check_errors(measure(visit, models, ("pft",), visit.sizes.repeats))


def _models(visit: Visit, name: str) -> list[Path]:
    try:
        return [visit.model(name)]
    except Skip:
        return []


def openequivariance(visit: Visit) -> None:
    """Nequix's torch network on the kernels of OpenEquivariance."""
    if not visit.on_gpu:
        raise Skip("OpenEquivariance works on GPUs only")
    peers = ("nequix_openequivariance",)
    _check_errors(measure(visit, ["nequix.pt"], peers, visit.sizes.repeats))


def _size(row: dict[str, Any]) -> str:
    return f"{row['atoms']}x{row['batch']}"


def _report(visit: Visit, row: dict[str, Any]) -> None:
    engine = f" {row['engine']}" if row["peer"] in OURS and row["step"] == "hvp" else ""
    what = f"{row['peer']} {row['name']} {row['step']} {_size(row)}{engine}"
    if "error" in row:
        visit.report(what, row["error"], row=row)
        return
    visit.report(what, row["median_s"], "s", row=row)
    visit.report(f"{what}, first", row["first_s"], "s")
    if row["peak_memory_mib"] is not None:
        visit.report(f"{what}, memory", row["peak_memory_mib"] / 1024, "GiB")


def _best(rows: list[dict], key: str) -> dict[tuple[str, str, str], float]:
    """Smallest value by peer, step and size: of our engines, the better one."""
    found: dict[tuple[str, str, str], float] = {}
    for row in rows:
        if row.get(key):
            case = (row["peer"], row["step"], _size(row))
            found[case] = min(row[key], found.get(case, row[key]))
    return found


def _check_errors(rows: list[dict[str, Any]]) -> None:
    """Fail where something was not measured; skip where nothing could be.

    Raises:
        Skip: a peer is not installed, and nothing else failed.
        RuntimeError: something else did.
    """
    errors = {row["error"]: row["peer"] for row in rows if "error" in row}
    if errors and all(error.startswith("ModuleNotFoundError") for error in errors):
        raise Skip("; ".join(errors))
    if errors:
        raise RuntimeError("; ".join(f"{peer}: {e}" for e, peer in errors.items()))


def launches(visit: Visit) -> None:
    """Kernels, seconds and waits of a step, with and without kernels of ours."""
    path = visit.model("nequix.pt")
    for name, environment in (("kernels", {}), ("framework", FRAMEWORK)):
        wait(start(_profile, visit, path, name, environment=environment, threads=1))


def _profile(visit: Visit, path: Path, name: str) -> None:
    model = load(path, "float32", visit.device)
    batch = build_crystal_batch([silicon(visit.sizes.cells)], model.cutoff)
    # As loaders hand it over.
    batch = model.arrangement()(batch).to(visit.device)
    tangents = draw_tangents(int(batch.num_nodes), 1).to(visit.device)

    def efs() -> Any:
        return take_step(model, batch, None)

    def hvp() -> Any:
        return take_step(model, batch, tangents)

    for step, function in (("efs", efs), ("hvp", hvp)):
        handed, done = time_step(function, visit.device, visit.sizes.repeats)
        visit.report(f"{name} {step}: host", 1e3 * handed, "ms")
        visit.report(f"{name} {step}: step", 1e3 * done, "ms")
        kernels, busy, table = _count_kernels(function, visit)
        visit.report(f"{name} {step}: launches", kernels)
        visit.report(f"{name} {step}: device", busy, "ms")
        print(table)
        waits = _count_waits(function) if visit.on_gpu else {}
        n_waits = sum(waits.values())
        visit.report(f"{name} {step}: waits", n_waits, goal=0, lines=waits)
    torch.set_float32_matmul_precision("high")
    done = time_step(hvp, visit.device, visit.sizes.repeats)[1]
    visit.report(f"{name} hvp, TF32: step", 1e3 * done, "ms")


def _count_kernels(step: Callable[[], Any], visit: Visit) -> tuple[int, float, str]:
    """Kernels of a step, the milliseconds that they take, and the longest of them."""
    activities = [ProfilerActivity.CPU]
    if visit.on_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        step()
        if visit.on_gpu:
            torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA
    kernels = [e for e in profiler.events() if e.device_type == kind]
    order = "self_device_time_total" if visit.on_gpu else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=30)
    return len(kernels), sum(e.device_time for e in kernels) / 1e3, table


def _count_waits(step: Callable[[], Any]) -> dict[str, int]:
    """How often the host waits for the device in a step, by line."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return count_waits(seen)
