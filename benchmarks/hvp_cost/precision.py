"""What each precision costs and loses: seconds and errors of a Hessian step.

    python precision.py OUT.json NAME=MODEL ... [--atoms 64] [--device cpu]

Errors are relative to double precision, on the same weights and structure: of forces,
of H v, and of the gradient to the weights. On a GPU single precision comes with and
without TF32. Results of other models in OUT.json stay.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from devices import hardware, versions
from peers import REPEATS, load

import pft_lightning as pft
from pft_lightning.runs.memory import keep_freed_memory


# Precision to (dtype of the weights, dtype of autocast, whether products are in TF32).
PRECISIONS = {
    "float64": (torch.float64, None, False),
    "float32": (torch.float32, None, False),
    "float32, TF32": (torch.float32, None, True),
    "bfloat16 autocast": (torch.float32, torch.bfloat16, False),
}


def measure(
    file: str, precision: str, atoms: int, device: str
) -> tuple[float, dict[str, torch.Tensor]]:
    """Median seconds of a step, and what it gives."""
    dtype, autocast, has_tf32 = PRECISIONS[precision]
    torch.set_float32_matmul_precision("high" if has_tf32 else "highest")
    case = {
        "model": file, "dtype": "float32", "device": device, "atoms": atoms,
        "batch": 1, "step": "hvp", "probes": 1, "direction": "column",
    }  # fmt: skip
    model, batch, directions, weights = load(case)
    # After rounding to single precision, so that only the arithmetic differs.
    model.to(dtype)

    def step() -> dict[str, torch.Tensor]:
        context: Any = contextlib.nullcontext()
        if autocast is not None:
            context = torch.autocast(torch.device(device).type, dtype=autocast)
        with context:
            found = model.derivatives(batch, tangents=directions)
            loss = found.forces.norm(dim=-1).mean() + found.hvp.square().sum()
        gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        gradient = torch.cat([g.detach().double().flatten() for g in gradients])
        return {"forces": found.forces, "hvp": found.hvp, "gradient": gradient}

    step()
    step()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        result = step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), {
        k: v.detach().double() for k, v in result.items()
    }


def main() -> None:
    """Measure every precision of every model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", help="NAME=FILE")
    parser.add_argument("--atoms", type=int, default=64, choices=REPEATS)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    keep_freed_memory()  # as pft-train does
    known = json.loads(options.out.read_text()) if options.out.exists() else []
    on_gpu = options.device.startswith("cuda")
    for name, file in (pair.split("=", 1) for pair in options.models):
        key = (name, options.device, options.atoms)
        known = [k for k in known if (k["name"], k["device"], k["atoms"]) != key]
        reference = None
        for precision in PRECISIONS:
            if "TF32" in precision and not on_gpu:
                continue
            row = {
                "name": name, "model": Path(file).name, "precision": precision,
                "device": options.device, "atoms": options.atoms,
            }  # fmt: skip
            try:
                seconds, found = measure(file, precision, options.atoms, options.device)
            except (RuntimeError, pft.PFTError) as error:
                row["error"] = str(error)[:300]
                known.append(row)
                continue
            reference = reference or found
            row["seconds"] = seconds
            for quantity, value in found.items():
                exact = reference[quantity]
                row[f"error_{quantity}"] = float((value - exact).norm() / exact.norm())
            row |= {"versions": versions(), "hardware": hardware(options.device)}
            known.append(row)
            print({k: v for k, v in row.items() if k not in ("versions", "hardware")})
    options.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
