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
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from case import PEERS, REPEATS
from tqdm import tqdm


PACKAGES = ("pft_lightning", "torch", "mace-torch", "nequip", "e3nn", "nequix", "jax")
OURS = ("pft", "double_backward")
STEPS = ("efs", "hvp")
KEY = (
    "peer", "name", "step", "engine", "atoms", "batch", "probes", "direction", "dtype",
    "device",
)  # fmt: skip


def grid(options: argparse.Namespace) -> list[dict]:
    """All cases that make sense."""
    cases = []
    for (name, model), peer, step, atoms in itertools.product(
        options.models, options.peers, STEPS, options.atoms
    ):
        for_jax = model.endswith(".nqx")
        if for_jax != (peer == "nequix_jax"):
            continue
        if step == "efs" and peer in ("nequix_torch_compile", "mace_hessian"):
            continue
        engines = options.engines if (peer, step) == ("pft", "hvp") else ["-"]
        probes = options.probes if peer in OURS and step == "hvp" else [1]
        for engine, n_probes, batch in itertools.product(
            engines, probes, options.batch
        ):
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


def measure(case: dict, timeout: float) -> dict:
    """Run one case; what goes wrong becomes its result."""
    command = [sys.executable, str(Path(__file__).with_name("case.py"))]
    try:
        done = subprocess.run(
            [*command, json.dumps(case)],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return case | {"error": f"not finished in {timeout:.0f} s"}
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return dict(json.loads(line.removeprefix("RESULT ")))
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return case | {"error": lines[-1][:300]}


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: str) -> dict:
    """Of this machine, without its name."""
    found = {"cores": psutil.cpu_count(), "processor": platform.machine()}
    if device.startswith("cuda"):
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def main() -> None:
    """Parse the command line and measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", help="NAME=FILE")
    parser.add_argument("--peers", nargs="+", default=list(OURS), choices=PEERS)
    parser.add_argument("--atoms", nargs="+", type=int, default=list(REPEATS))
    parser.add_argument("--probes", nargs="+", type=int, default=[1])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
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
    options = parser.parse_args()
    options.models = [tuple(pair.split("=", 1)) for pair in options.models]
    known = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {tuple(result[name] for name in KEY) for result in known}
    pending = [c for c in grid(options) if tuple(c[name] for name in KEY) not in done]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for case in tqdm(pending, unit="case"):
        result = measure(case, options.timeout)
        result["model"] = Path(case["model"]).name
        result |= {"versions": versions(), "hardware": hardware(case["device"])}
        known.append(result)
        options.out.write_text(json.dumps(known, indent=1) + "\n")
        tqdm.write(
            f"{case['peer']:20s} {case['name']:8s} {case['step']} {case['atoms']:4d} "
            f"atoms, {case['probes']} probes, {case['engine']}: "
            f"{result.get('error') or format(result['median_s'], '.3f') + ' s'}"
        )


if __name__ == "__main__":
    main()
