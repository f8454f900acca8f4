"""One visit to a GPU: make all checks, each with a limit, and keep what they found.

    python day.py OUT --pack DIR [--device cuda] [--tiny] [--seconds 530]
        [--only CHECK ...] [--limits 1.0]

A check that fails does not stop the next. OUT gets ``gpu.json``, of the form of
``benchmarks/results/gpu.json``, ``table.txt`` and ``day.log``; all are written after
each check, so that what was measured outlives an end that nobody chose. Exits with 1
where a check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

from visit import FULL, TINY, Skip, Visit, describe, read_rows, to_json


BENCHMARKS = Path(__file__).resolve().parents[1]
# Imported once, here, where every check is a copy of this process.
PRELOADED = ("torch", "lightning", "phonopy", "pft_lightning.cli.train", "plan")
SKIPPED = 77
LEAST = 5  # s; a check with less is not begun
LOG = 200_000  # bytes of each check's log that are kept


@dataclass
class Outcome:
    """What became of a check.

    Attributes:
        name: of the check.
        limit: s, that it had.
        status: "ok", "exceeded" (a number above its bound), "failed", "stopped" (at
            its limit), "skipped" or "not run".
        seconds: that it took.
        reason: for anything but "ok".
        rows: what it reported.
    """

    name: str
    limit: float
    status: str = "not run"
    seconds: float = 0.0
    reason: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def line(self) -> str:
        """Of the table."""
        first = f"{self.name:22s} {self.status:9s} {self.seconds:5.0f} s"
        return f"{first} | {self.reason}" if self.reason else first


@dataclass
class Running:
    """A check that has been started."""

    check: Any
    process: Any
    began: float
    outcome: Outcome
    log: Path


class Day:
    """Makes checks until they or the time are at an end.

    Args:
        visit: as the checks see it.
        out: folder for the results.
        seconds: until the end.
        only: names of the checks to make; all by default.
    """

    def __init__(
        self,
        visit: Visit,
        out: Path,
        seconds: float,
        only: list[str] | None,
    ) -> None:
        from plan import CHECKS

        self._visit, self._out = visit, out
        self._begin = time.monotonic()
        self._end = self._begin + seconds
        self._waiting = [c for c in CHECKS if not only or c.name in only]
        self._running: list[Running] = []
        self.outcomes = [Outcome(c.name, c.limit) for c in self._waiting]
        cores = len(os.sched_getaffinity(0))
        self._jobs = max(2, cores // 2)
        self._threads = max(1, cores // self._jobs)
        self._date = datetime.now(timezone.utc).isoformat(timespec="seconds")

    def run(self) -> None:
        """Make the checks; end those that run if this process is to end."""
        try:
            while self._waiting or self._running:
                self._collect()
                while self._waiting and self._may_start(self._waiting[0]):
                    self._start(self._waiting.pop(0))
                time.sleep(0.05)
        finally:
            self.close()

    def close(self) -> None:
        """End what runs, and keep what there is."""
        from processes import stop

        for running in self._running:
            stop(running.process)
            self._conclude(running, "stopped", "the visit ended")
        self._running = []
        self._keep()

    def _may_start(self, check: Any) -> bool:
        if not self._running:
            return True
        alone = check.alone or any(r.check.alone for r in self._running)
        return not alone and len(self._running) < self._jobs

    def _start(self, check: Any) -> None:
        from processes import start

        outcome = next(o for o in self.outcomes if o.name == check.name)
        outcome.limit = min(
            check.limit * self._visit.patience, self._end - time.monotonic()
        )
        if outcome.limit < LEAST:
            outcome.reason = "no time left"
            self._keep()
            return
        threads = self._threads * (self._jobs if check.alone else 1)
        visit = replace(self._visit, check=check.name, threads=threads)
        log = self._visit.work / f"{check.name}.log"
        process = start(_make, check, visit, log=log, threads=1, own_group=True)
        self._running.append(Running(check, process, time.monotonic(), outcome, log))

    def _collect(self) -> None:
        from processes import stop

        for running in list(self._running):
            late = time.monotonic() - running.began > running.outcome.limit
            if running.process.is_alive() and not late:
                continue
            status, reason = "stopped", f"after {running.outcome.limit:.0f} s"
            if not running.process.is_alive():
                status, reason = _judge(running)
            stop(running.process)  # whatever it started and left
            self._running.remove(running)
            self._conclude(running, status, reason)
            self._keep()

    def _conclude(self, running: Running, status: str, reason: str) -> None:
        outcome = running.outcome
        outcome.seconds = time.monotonic() - running.began
        rows = read_rows(self._visit.rows)
        outcome.rows = [r for r in rows if r["check"] == outcome.name]
        broken = [r for r in outcome.rows if r.get("holds") is False]
        if status == "ok" and broken:
            status, reason = "exceeded", "; ".join(map(describe, broken[:4]))
        outcome.status, outcome.reason = status, reason
        print(outcome.line, flush=True)
        with (self._out / "day.log").open("ab") as file:
            file.write(f"=== {outcome.line}\n".encode())
            if running.log.exists():
                file.write(running.log.read_bytes()[-LOG:])

    def _keep(self) -> None:
        """Write all that is known."""
        known = {r["what"]: r["value"] for r in read_rows(self._visit.rows)}
        record = {
            "card": known.get("card", "none"),
            "date": self._date,
            "commit": _commit(),
            "command": " ".join(Path(x).name for x in sys.argv),  # no folders
            "seconds": time.monotonic() - self._begin,
            "sizes": to_json(self._visit.sizes),
            "checks": [vars(outcome) for outcome in self.outcomes],
        }
        _write(self._out / "gpu.json", json.dumps(record, indent=1) + "\n")
        _write(self._out / "table.txt", self.table() + self.details())

    def table(self) -> str:
        """All checks, a line each."""
        return "".join(f"{outcome.line}\n" for outcome in self.outcomes)

    def details(self) -> str:
        """What the checks found."""
        lines: list[str] = []
        for outcome in self.outcomes:
            if outcome.rows and outcome.name != "versions":
                lines += ["", outcome.name, *(f"  {describe(r)}" for r in outcome.rows)]
        return "\n".join(lines) + "\n"


def _make(check: Any, visit: Visit) -> NoReturn:
    """Make a check, in a process of its own."""
    try:
        check.run(visit)
    except Skip as reason:
        print(f"REASON {reason}", flush=True)
        sys.exit(SKIPPED)
    except Exception as error:
        traceback.print_exc()
        words = " ".join(str(error).split())[:300]
        print(f"REASON {type(error).__name__}: {words}", flush=True)
        sys.exit(1)
    sys.exit(0)


def _judge(running: Running) -> tuple[str, str]:
    """Status and reason of a check that has ended."""
    status = running.process.exitcode
    if status == 0:
        return "ok", ""
    lines = running.log.read_text(errors="replace").splitlines()
    reasons = [x.removeprefix("REASON ") for x in lines if x.startswith("REASON ")]
    reason = reasons[-1] if reasons else f"exit status {status}"
    return ("skipped" if status == SKIPPED else "failed"), reason


def _commit() -> str:
    """Of the code, as day.sh or the pack knows it."""
    return os.environ.get("PFT_COMMIT", "unknown")


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


@contextlib.contextmanager
def _work_folder(pack: Path) -> Iterator[Path]:
    """A folder for what stays here, with the caches of what is compiled."""
    caches = pack / "cache"
    for variable, name in (
        ("TRITON_CACHE_DIR", "triton"),
        ("JAX_COMPILATION_CACHE_DIR", "jax"),
        ("TORCH_EXTENSIONS_DIR", "torch"),
        ("XDG_CACHE_HOME", "home"),
    ):
        os.environ.setdefault(variable, str(caches / name))
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    os.environ["WANDB_MODE"] = "disabled"
    work = Path(tempfile.mkdtemp(prefix="work-", dir=pack))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _prepare(device: str) -> None:
    """Choose how checks start; import what they need, where they are copies."""
    from processes import METHOD

    sys.path.insert(0, str(BENCHMARKS / "hvp_cost"))
    method = os.environ.setdefault(METHOD, "fork" if device == "cpu" else "spawn")
    if method != "fork":
        return
    for name in PRELOADED:
        importlib.import_module(name)
    import torch

    # Threads do not survive in a copy; each check takes those that it needs.
    torch.set_num_threads(1)


def main() -> None:
    """Parse the command line, make the checks, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pack", type=Path, required=True, help="made by pack.sh")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes")
    parser.add_argument("--seconds", type=float, default=530.0, help="of the visit")
    parser.add_argument("--only", nargs="+", help="names of checks")
    parser.add_argument(
        "--limits", type=float, default=1.0, help="factor of the limit of each check"
    )
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = options.out / "rows.jsonl"
    for path in (rows, options.out / "day.log"):
        path.write_text("")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sizes = TINY if options.tiny else FULL
    with _work_folder(options.pack.resolve()) as work:
        _prepare(options.device)
        pack = options.pack.resolve()
        visit = Visit(options.device, pack, work, rows, sizes, patience=options.limits)
        day = Day(visit, options.out, options.seconds, options.only)
        day.run()
    print(day.details())
    print(day.table())  # last, where the end of the output is all that is seen
    rows.unlink()
    sys.exit(any(o.status in ("exceeded", "failed", "stopped") for o in day.outcomes))


if __name__ == "__main__":
    main()
