"""Time and memory of a Hessian step, ours and every peer's that installs.

    python run.py OUT.json NAME=MODEL ... [--peers pft nequix_jax] [--atoms 8 64 ...]
        [--probes 1 4] [--batch 1] [--engines ...] [--dtype float32] [--device cpu]
        [--direction column]

The unit is the training step on energies, forces and stress (``efs``): loss and
gradients with respect to the weights. ``hvp`` adds one column (or several) of the
Hessian to it. Every case runs in a process of its own. Cases that are in OUT.json
already are not measured again, so environments that exclude each other can fill one
file in turn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

from devices import versions
from peers import JAX_PEERS, PEERS, REPEATS
from tqdm import tqdm


OURS = ("pft", "pft_framework", "double_backward")
STEPS = ("efs", "hvp")
KEY = (
    "peer", "name", "step", "engine", "atoms", "batch", "probes", "direction", "dtype",
    "device",
)  # fmt: skip


def grid(options: argparse.Namespace) -> list[dict]:
    """All cases that make sense."""
    cases = []
    sizes = options.sizes or itertools.product(options.atoms, options.batch)
    for (name, model), peer, step, (atoms, batch) in itertools.product(
        options.models, options.peers, STEPS, list(sizes)
    ):
        for_jax = model.endswith(".nqx")
        if for_jax != (peer in JAX_PEERS):
            continue
        if step == "efs" and peer in ("nequix_torch_compile", "mace_hessian"):
            continue
        has_engines = peer in ("pft", "pft_framework") and step == "hvp"
        engines = options.engines if has_engines else ["-"]
        probes = options.probes if peer in OURS and step == "hvp" else [1]
        for engine, n_probes in itertools.product(engines, probes):
            cases.append(
                {
                    "peer": peer, "name": name, "model": model, "step": step,
                    "engine": "forward_over_reverse" if engine == "-" else engine,
                    "atoms": atoms, "batch": batch, "probes": n_probes,
                    "direction": options.direction if step == "hvp" else "column",
                    "dtype": options.dtype, "device": options.device,
                    "repeats": options.repeats,
                }
            )  # fmt: skip
    return cases


def parse_size(text: str) -> tuple[int, int]:
    """``64`` or ``80x16``: atoms, and structures of a batch."""
    atoms, _, batch = text.partition("x")
    return int(atoms), int(batch or 1)


def measure(cases: list[dict], timeout: float) -> Iterator[dict]:
    """Run cases one after another in one process; a new one follows where it ends.

    Args:
        cases: of one peer.
        timeout: s, of each.

    Yields:
        The result of each as it comes; what went wrong is one.
    """
    pending = list(cases)
    while pending:
        ended = yield from _stream(pending, timeout)
        pending = pending[ended["n"] :]
        if pending:
            yield pending.pop(0) | {"error": ended["error"]}


def _stream(cases: list[dict], timeout: float) -> Generator[dict, None, dict]:
    """Give results while they come; return their number, and why there are no more."""
    command = [sys.executable, str(Path(__file__).with_name("case.py"))]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*command, json.dumps(cases)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            process.kill()

        n, timer = 0, threading.Timer(timeout, stop)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("RESULT "):
                continue
            timer.cancel()
            timer = threading.Timer(timeout, stop)
            timer.start()
            n += 1
            yield json.loads(line.removeprefix("RESULT "))
        status = process.wait()
        timer.cancel()
        errors.seek(0)
        lines = errors.read().strip().splitlines() or [f"exit status {status}"]
    late = f"not finished in {timeout:.0f} s"
    return {"n": n, "error": late if stopped.is_set() else lines[-1][:300]}


def group(cases: list[dict], *, together: bool) -> list[list[dict]]:
    """Share cases among processes: one each, or those of a peer and model in one."""
    if not together:
        return [[case] for case in cases]
    groups: dict[tuple[str, str], list[dict]] = {}
    for case in cases:
        groups.setdefault((case["peer"], case["name"]), []).append(case)
    # From small to large: JAX knows the largest memory of a process alone.
    return [
        sorted(found, key=lambda case: case["atoms"] * case["batch"])
        for found in groups.values()
    ]


def main() -> None:
    """Parse the command line and measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", help="NAME=FILE")
    parser.add_argument(
        "--peers", nargs="+", default=["pft", "double_backward"], choices=PEERS
    )
    parser.add_argument("--atoms", nargs="+", type=int, default=list(REPEATS))
    parser.add_argument("--probes", nargs="+", type=int, default=[1])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=parse_size,
        help="ATOMS or ATOMSxBATCH, in place of --atoms and --batch",
    )
    parser.add_argument(
        "--engines", nargs="+", default=["forward_over_reverse", "reverse_over_reverse"]
    )
    parser.add_argument(
        "--direction", default="column", choices=("column", "signs"), help="of H v"
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=600, help="s, of a case")
    parser.add_argument(
        "--together",
        action="store_true",
        help="the cases of a peer and model in one process, which starts once",
    )
    options = parser.parse_args()
    options.models = [tuple(pair.split("=", 1)) for pair in options.models]
    known = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {tuple(result[name] for name in KEY) for result in known}
    pending = [c for c in grid(options) if tuple(c[name] for name in KEY) not in done]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = (
        result
        for cases in group(pending, together=options.together)
        for result in measure(cases, options.timeout)
    )
    for result in tqdm(results, total=len(pending), unit="case"):
        result["model"] = Path(result["model"]).name
        result["versions"] = versions()
        known.append(result)
        options.out.write_text(json.dumps(known, indent=1) + "\n")
        seconds = result.get("error") or f"{result['median_s']:.4f} s"
        tqdm.write(
            "{peer:20s} {name:8s} {step} {atoms:4d} atoms, batch {batch}, {probes} "
            "probes, {engine}: {seconds}".format(**result, seconds=seconds)
        )


if __name__ == "__main__":
    main()
