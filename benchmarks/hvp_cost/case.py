"""Measurements in a process of their own, so that their peak memory is their own.

``python case.py '[{"peer": "pft", "model": "x.pt", "atoms": 64, ...}]'`` prints a line
of JSON for each case as it ends; ``run.py`` makes the cases.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from typing import Any

from devices import JaxDevice, TorchDevice, hardware, on_gpu, prepare
from peers import JAX_PEERS, PEERS


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Median and spread of the seconds of a step, and the memory it needed."""
    with_jax = case["peer"] in JAX_PEERS
    device = (JaxDevice if with_jax else TorchDevice)(case["device"])
    step = PEERS[case["peer"]](case)
    device.start()
    started = time.perf_counter()
    step()
    device.synchronise()
    first = time.perf_counter() - started
    step()
    device.synchronise()
    seconds = []
    for _ in range(case["repeats"]):
        started = time.perf_counter()
        step()
        device.synchronise()
        seconds.append(time.perf_counter() - started)
    return case | {
        "first_s": first,
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "peak_memory_mib": device.peak_memory(),
        "hardware": hardware(case["device"], with_jax=with_jax),
    }


def attempt(case: dict[str, Any]) -> dict[str, Any]:
    """Measure; what goes wrong becomes the result."""
    try:
        result = measure(case)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        result = case | {"error": f"{type(error).__name__}: {lines[0]}"[:300]}
    gc.collect()
    if on_gpu(case["device"]) and case["peer"] not in JAX_PEERS:
        import torch

        torch.cuda.empty_cache()
    return result


def main() -> None:
    """Measure one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=json.loads, help="as run.py makes them")
    cases = parser.parse_args().cases
    prepare(cases[0]["device"])
    for case in cases:
        print("RESULT " + json.dumps(attempt(case)), flush=True)


if __name__ == "__main__":
    main()
