"""Checks of whole trainings: pace, memory, a kill, and two processes on one card."""

from __future__ import annotations

import itertools
import json
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from processes import Process, start, wait
from visit import Skip, Visit


DOUBLE = "model.dtype=float64"
# Of the way that the weights have gone, between one process and two: Adam divides
# gradients by their size, so that rounding shows where they are small.
TWO_PROCESSES = 1e-3
PAPER = ("data.phonons.batch_size=16", "data.upstream.batch_size=64")


def train_here(arguments: list[str], memory: float | None, peak: Path | None) -> None:
    """Run ``pft-train`` in this process.

    Args:
        arguments: of the command line.
        memory: fraction of the GPU's that may be used.
        peak: file for the largest memory that was, bytes.
    """
    from pft_lightning.cli.train import main

    sys.argv = ["pft-train", *arguments]
    if memory is not None:
        torch.cuda.set_per_process_memory_fraction(memory)
    main()
    if peak is not None:
        used = torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else 0
        peak.write_text(str(used))


def start_training(
    visit: Visit,
    name: str,
    *overrides: str,
    memory: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start the recipe of the paper in the folder ``name``; logs lie beside it."""
    folder = visit.work / visit.check / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    rank = (environment or {}).get("NODE_RANK", "0")
    model = visit.model("nequix.pt")
    arguments = [
        "experiment=pft_paper_nequix",
        f"model.checkpoint={model}",
        f"data.phonons.train={visit.data('train')}",
        f"data.phonons.val={visit.data('val')}",
        f"data.upstream.train={visit.data('upstream-train')}",
        f"data.upstream.val={visit.data('upstream-val')}",
        f"data.phonons.batch_size={visit.sizes.phonons}",
        f"data.upstream.batch_size={visit.sizes.upstream}",
        f"data.cache_dir={visit.work / 'cache'}",
        f"trainer.accelerator={'gpu' if visit.on_gpu else 'cpu'}",
        "trainer.devices=1",
        "trainer.max_epochs=-1",
        "trainer.check_val_every_n_epoch=null",
        "trainer.val_check_interval=100000",
        "+trainer.limit_val_batches=1",
        "+trainer.enable_progress_bar=false",
        "data.num_workers=0",
        "logger=none",
        "export=last",
        f"hydra.run.dir={folder}",
        *overrides,
    ]
    return start(
        train_here,
        arguments,
        memory,
        folder.with_suffix(".peak"),
        log=folder.with_suffix(f".{rank}.log"),
        environment=environment,
        threads=visit.threads,
    )


def finish(visit: Visit, *names: str, processes: list[Process]) -> None:
    """Wait for trainings.

    Raises:
        RuntimeError: one failed; its log is shown.
    """
    try:
        wait(*processes)
    except RuntimeError as error:
        last = ""
        logs = [visit.work.joinpath(visit.check).glob(f"{n}.*.log") for n in names]
        for path in itertools.chain(*logs):
            log = path.read_text()
            print(f"--- {path.name}\n{log[-3000:]}")
            errors = re.findall(r"^(?:error: |[\w.]+Error: ).+", log, re.MULTILINE)
            last = errors[-1] if errors else last
        raise RuntimeError(f"{error}: {last}") from error


def weights(visit: Visit, name: str) -> dict[str, torch.Tensor]:
    """What a training has left."""
    path = visit.work / visit.check / name / "checkpoints" / "last.ckpt"
    found = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    return {k: v for k, v in found.items() if v.is_floating_point()}


def distance(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Largest difference of two weights."""
    return max(float((first[k] - second[k]).abs().max()) for k in first)


def resume(visit: Visit, *, deterministic: bool) -> None:
    """A training that is killed and resumed, against one that is not."""
    common = (
        f"trainer.max_steps={visit.sizes.steps}",
        f"callbacks.last.every_n_steps={visit.sizes.steps // 3}",
        f"trainer.deterministic={str(deterministic).lower()}",
    )
    whole = start_training(visit, "whole", *common)
    killed = start_training(visit, "killed", *common)
    last = visit.work / visit.check / "killed" / "checkpoints" / "last.ckpt"
    while killed.is_alive() and not last.exists():
        time.sleep(0.005)
    killed.kill()
    killed.join()
    if killed.exitcode != -signal.SIGKILL:
        finish(visit, "killed", processes=[killed])
        raise RuntimeError("the training ended before it could be killed")
    resumed = start_training(visit, "killed", *common, "resume=true")
    finish(visit, "whole", "killed", processes=[whole, resumed])
    found, expected = weights(visit, "killed"), weights(visit, "whole")
    bound = 0.0 if deterministic else None
    what = f"largest difference of weights, deterministic={deterministic}"
    visit.report(what, distance(found, expected), bound=bound)


def out_of_memory(visit: Visit) -> None:
    """A batch that does not fit is split, and the steps stay the same."""
    few = ("trainer.max_steps=2", DOUBLE, "callbacks.last.every_n_steps=2")
    finish(visit, "whole", processes=[start_training(visit, "whole", *few)])
    if not visit.on_gpu:
        raise Skip("the CPU's memory has no limit that torch knows")
    peak = int((visit.work / visit.check / "whole.peak").read_text())
    # In a process of its own: this one may not touch the GPU.
    total = visit.work / visit.check / "total"
    wait(start(_write_total_memory, total))
    fraction = 0.6 * peak / int(total.read_text())
    visit.report("peak of the whole step", peak / 2**30, "GiB")
    small = start_training(visit, "small", *few, memory=fraction)
    finish(visit, "small", processes=[small])
    summary = visit.work / visit.check / "small" / "summary.json"
    splits = json.loads(summary.read_text())["memory_splits"]
    visit.report("steps without a split", float(splits == 0), bound=0, splits=splits)
    _compare(visit, "small", "whole")


def _write_total_memory(path: Path) -> None:
    path.write_text(str(torch.cuda.get_device_properties(0).total_memory))


def two_processes(visit: Visit) -> None:
    """Two processes on one device, by gloo, against one with batches twice as large."""
    few = ("trainer.max_steps=3", DOUBLE, "callbacks.last.every_n_steps=3")
    strategy = "{_target_: lightning.pytorch.strategies.DDPStrategy, "
    strategy += "process_group_backend: gloo}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    # To Lightning they are two machines of one GPU: of one machine it wants two.
    two = [
        start_training(
            visit,
            "two",
            *few,
            "trust_config=true",
            "+trainer.num_nodes=2",
            f"trainer.strategy={strategy}",
            environment={**shared, "NODE_RANK": str(rank), "LOCAL_RANK": "0"},
        )
        for rank in range(2)
    ]
    one = start_training(
        visit,
        "one",
        *few,
        f"data.phonons.batch_size={2 * visit.sizes.phonons}",
        f"data.upstream.batch_size={2 * visit.sizes.upstream}",
    )
    finish(visit, "two", "one", processes=[*two, one])
    _compare(visit, "two", "one")


def _compare(visit: Visit, name: str, other: str) -> None:
    """Report how far apart two trainings are, of the way that they went."""
    from pft_lightning import load_model

    found, expected = weights(visit, name), weights(visit, other)
    base = load_model(visit.model("nequix.pt"), dtype="float64").state_dict()
    begin = {f"model.{key}": value for key, value in base.items()}
    gone = sum(float((expected[k] - begin[k]).square().sum()) for k in expected)
    apart = sum(float((found[k] - expected[k]).square().sum()) for k in expected)
    visit.report(
        f"{name} - {other}, of the way gone",
        (apart / gone) ** 0.5,
        bound=TWO_PROCESSES,
        largest=distance(found, expected),
    )


def pace(visit: Visit, n_workers: int) -> None:
    """The recipe of the paper: steps a second, wait for data, change of the errors."""
    path = visit.work / visit.check / f"pace{n_workers}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = visit.sizes.pace_s
    process = start_training(
        visit,
        f"workers{n_workers}",
        *(PAPER if visit.on_gpu else ()),
        f"trainer.max_steps={visit.sizes.pace_steps}",
        f"+trainer.max_time=00:00:{seconds // 60:02d}:{seconds % 60:02d}",
        f"data.num_workers={n_workers}",
        f"trainer.limit_val_batches={visit.sizes.validation}",
        "trust_config=true",
        "+callbacks.pace._target_=pace.Pace",
        f"+callbacks.pace.path={path}",
    )
    finish(visit, f"workers{n_workers}", processes=[process])
    found = json.loads(path.read_text())
    steps, gaps = found["steps"][5:], found["gaps"][5:]
    total = sum(steps) + sum(gaps)
    if steps and total:
        visit.report(f"{n_workers} workers", len(steps) / total, "steps/s")
        share = 100 * sum(gaps) / total
        goal = 5.0 if n_workers else None
        visit.report(f"{n_workers} workers: between steps", share, "%", goal=goal)
    summary = visit.work / visit.check / f"workers{n_workers}" / "summary.json"
    for name, values in json.loads(summary.read_text()).items():
        if isinstance(values, dict) and None not in (
            values.get("before"),
            values.get("after"),
        ):
            change = values["after"] / values["before"] - 1
            visit.report(f"{name}, change", 100 * change, "%", **values)


def waits(visit: Visit) -> None:
    """Where a training waits for the device, between two of its later steps."""
    path = visit.work / visit.check / "waits.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    process = start_training(
        visit,
        "counted",
        "trainer.max_steps=10",
        "trust_config=true",
        "+callbacks.waits._target_=pace.DeviceWaits",
        f"+callbacks.waits.path={path}",
        "+callbacks.waits.first=3",
        "+callbacks.waits.last=8",
    )
    finish(visit, "counted", processes=[process])
    found = json.loads(path.read_text())
    number = sum(found.values()) / 5
    visit.report("waits a step", number, goal=0, lines=found)
    for line, count in sorted(found.items(), key=lambda item: -item[1])[:20]:
        visit.report(f"waits at {line}", count / 5)
