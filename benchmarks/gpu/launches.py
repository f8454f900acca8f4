"""Count on the CPU the kernels that a training step would launch on a GPU.

    python launches.py OUT.json NAME=MODEL ... [--atoms 64] [--label now]
        [--dtype float32] [--repeats 7] [--lines 12]

A step is the loss and its gradient with respect to the weights, as in ``hvp_cost``. An
operation of torch is a launch unless it is a view, an allocation or a question. A call
of the compiled messages is one launch, which it is on a GPU. Prints the lines of code
that launch most, and writes the counts and the host's seconds of a step to OUT.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


BENCHMARKS = Path(__file__).parents[1]
PACKAGE = BENCHMARKS.parent / "pft_lightning"
TORCH = Path(torch.__file__).parent
STEPS = (
    ("efs", "reverse_over_reverse"),
    ("hvp", "forward_over_reverse"),
    ("hvp", "reverse_over_reverse"),
)

# Operations that neither are views nor launch anything.
_NO_KERNEL = re.compile(
    r"aten\.(detach|alias|lift_fresh|_unsafe_view|empty|empty_like|new_empty|"
    r"empty_strided|new_empty_strided|_efficientzerotensor|is_same_size|"
    r"_has_same_storage_numel|_local_scalar_dense)\.|prim\."
)


class Launches(TorchDispatchMode):
    """Counts launches by the line of code that they come from.

    Attributes:
        operations: launches by operation.
        lines: launches by line; those of a backward pass belong to the line whose
            derivative they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All launches."""
        return self.operations.total()

    def add(self, operation: str) -> None:
        """Count one launch here."""
        self.operations[operation] += 1
        self.lines[_origin()] += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count what it launches."""
        if not _is_view(func) and not _NO_KERNEL.match(str(func)):
            self.add(str(func))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def count_launches() -> Iterator[Launches]:
    """Count what is launched inside."""
    from pft_lightning.kernels import messages

    launches, contract = Launches(), messages.contract

    def counted(*args: Any) -> Any:
        launches.add("messages")
        return contract(*args)

    messages.contract = counted
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Anomaly Detection")
            # It alone knows which line a backward operation comes from.
            with torch.autograd.detect_anomaly(check_nan=False), launches:
                yield launches
    finally:
        messages.contract = contract


def _is_view(func: Any) -> bool:
    returned = (value.alias_info for value in func._schema.returns)
    return func.is_view or any(x is not None and not x.is_write for x in returned)


def _origin() -> str:
    """``file:line function``, of this package or of a framework."""
    node = torch._C._current_autograd_node()
    frames = None
    while node is not None:
        frames = node.metadata.get("traceback_", frames)
        node = node.metadata.get("parent_")
    if frames is None:
        found = [(f.filename, f.lineno, f.name) for f in traceback.extract_stack()]
    else:
        named = (re.match(r'\s*File "(.+)", line (\d+), in (.+)', x) for x in frames)
        found = [match.groups() for match in named if match]
    for path, line, function in reversed(found):
        if path.startswith(str(BENCHMARKS / "hvp_cost")):
            break
        if not path.startswith((str(BENCHMARKS), str(TORCH))):
            short = re.sub(rf".*site-packages/|^{PACKAGE.parent}/", "", path)
            return f"{short}:{line} {function}"
    return "the loss"


def host_seconds(step: Callable[[], Any], repeats: int) -> dict[str, float]:
    """CPU seconds of a step, smallest and median."""
    step()
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return {"min_s": min(seconds), "median_s": statistics.median(seconds)}


def measure(case: dict[str, Any], repeats: int, n_lines: int) -> dict[str, Any]:
    """Launches and host time of a case of ``hvp_cost``."""
    from peers import PEERS

    step = PEERS["pft"](case)
    step()
    with count_launches() as launches:
        step()
    print(f"{case['name']} {case['step']} {case['engine']}: {launches.total} launches")
    for counter in (launches.lines, launches.operations):
        for name, number in counter.most_common(n_lines):
            print(f"  {number:5d} {name}")
    seconds = host_seconds(step, repeats)
    smallest, median = seconds.values()
    print(f"  CPU time of a step: {smallest:.3f} s, median {median:.3f} s")
    return case | {"launches": launches.total} | seconds


def main() -> None:
    """Count each step of each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", help="NAME=FILE")
    parser.add_argument("--atoms", type=int, default=64)
    parser.add_argument("--label", default="now", help="of the results in OUT.json")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--lines", type=int, default=12, help="to print of each step")
    options = parser.parse_args()
    sys.path.insert(0, str(BENCHMARKS / "hvp_cost"))
    from devices import hardware, versions

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    results = known.setdefault(options.label, {})
    for name, model in (pair.split("=", 1) for pair in options.models):
        for step, engine in STEPS:
            case = {
                "name": name, "model": model, "step": step, "engine": engine,
                "atoms": options.atoms, "batch": 1, "probes": 1,
                "direction": "column", "dtype": options.dtype, "device": "cpu",
            }  # fmt: skip
            found = measure(case, options.repeats, options.lines)
            found |= {"model": Path(model).name, "versions": versions()}
            results[f"{name} {step} {engine}"] = found | {"hardware": hardware("cpu")}
    options.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
