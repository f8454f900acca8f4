"""List, on the CPU, where a training step would make the host wait for a GPU.

    python waits.py OUT.json NAME=MODEL ... [--steps 4] [--set KEY=VALUE ...]

Trains on the example that ships in the package, by ``pft-train`` itself, and looks at
steps in the middle of it: from one optimiser step to the next, what the trainer, its
callbacks and the log do included, what the loader's workers do left out. A wait is an
operation whose result the host must know (a number, the places that a mask selects, how
often a row is repeated), or an array made of the host's numbers. Each is printed with
the line that asked for it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


ROOT = Path(__file__).parents[2]

# Their results, or the sizes of these, are known when the device has computed them.
_ASKS = re.compile(
    r"aten\.(_local_scalar_dense|nonzero|is_nonzero|masked_select|bincount|equal|"
    r"_?unique\w*|repeat_interleave\.Tensor|_linalg_check_errors)\b"
)
# Calls that copy between host and device and come back when that is done.
_COPIES = {torch.Tensor.cpu: "cpu", torch.Tensor.numpy: "numpy"}
_MAKERS = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
# Code that runs on the CPU alone: the loader, the compiled messages and the directions
# that they look at, checks of torch that it leaves out on GPUs, what was copied aside
# for the host, and losses of the progress bar.
_CPU_ONLY = re.compile(
    r"torch/utils/data/|kernels/(host|contraction|sums)\.py|physics/direction\.py|"
    r"one_hot\(|step = _get_value\(|isfinite\(self\.values\)|"
    r"metrics\[.pbar.\]"
)
_HERE = (str(Path(__file__)), str(Path(torch.__file__).parent), "<")


class Waits:
    """Counts waits by operation and line, while it is switched on.

    Attributes:
        found: how often each ``(operation, line)`` was seen; lines of a backward pass
            are those of the call that started it.
    """

    def __init__(self) -> None:
        self.found: Counter[tuple[str, str]] = Counter()
        self._modes = (_Operations(self), _Calls(self))
        self._is_on = False

    def __enter__(self) -> Waits:
        """Switch on."""
        self._is_on = True
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Switch off."""
        if self._is_on:
            self._is_on = False
            for mode in reversed(self._modes):
                mode.__exit__(*error)

    def add(self, operation: str) -> None:
        """Count one wait here."""
        stack = [
            (f"{frame.filename}:{frame.lineno} {frame.line}", frame.filename)
            for frame in traceback.extract_stack()[:-2]
        ]
        if not any(_CPU_ONLY.search(line) for line, _ in stack):
            lines = [line for line, path in stack if not path.startswith(_HERE)]
            short = re.sub(rf"^{ROOT}/|^.*site-packages/", "", lines[-1])
            self.found[operation, short] += 1


class _Operations(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(func)
        masked = name.startswith(("aten.index.", "aten.index_put", "aten._index_put"))
        if masked and any(x is not None and x.dtype == torch.bool for x in args[1]):
            self._waits.add(f"{name} with a mask")
        elif _ASKS.match(name) and "output_size" not in (kwargs or {}):
            self._waits.add(name)
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _COPIES:
            self._waits.add(_COPIES[func])
        elif func in _MAKERS and not isinstance(args[-1], torch.Tensor):
            self._waits.add("numbers of the host")
        result = func(*args, **(kwargs or {}))
        if func is torch.from_numpy:
            result._is_of_host = True
        elif func is torch.Tensor.to and hasattr(args[0], "_is_of_host"):
            if not (kwargs or {}).get("non_blocking"):
                self._waits.add("numbers of the host")
            return result.clone()
        return result


class CountWaits(lightning.Callback):
    """Counts the waits of some steps of a training.

    Args:
        first: step after which counting starts; the first few do things once.
        steps: that are looked at.
    """

    def __init__(self, first: int, steps: int) -> None:
        self.first, self.last = first, first + steps
        self.waits = Waits()

    def on_before_zero_grad(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Between the gradient of a step and the optimiser."""
        if trainer.global_step == self.first and not self.waits._is_on:
            self.waits.__enter__()
        elif trainer.global_step == self.last:
            self.waits.__exit__(None, None, None)

    def on_exception(self, *_: Any) -> None:
        """Leave nothing switched on."""
        self.waits.__exit__(None, None, None)


def count(model: str, steps: int, settings: list[str]) -> Counter[tuple[str, str]]:
    """Waits of some steps of a training of the example.

    Args:
        model: file of the potential.
        steps: that are looked at.
        settings: other options of ``pft-train``.
    """
    from hydra import compose, initialize_config_module

    import pft_lightning.cli.common  # noqa: F401, its resolvers
    from pft_lightning.runs import train as runs

    counter = CountWaits(first=4, steps=steps)
    original = runs.build_callbacks
    runs.build_callbacks = lambda config: [*original(config), counter]
    try:
        with tempfile.TemporaryDirectory() as folder:
            with initialize_config_module("pft_lightning.conf", version_base="1.3"):
                config = compose(
                    "train",
                    overrides=[
                        "experiment=quickstart",
                        "model=auto",
                        f"model.checkpoint={Path(model).resolve()}",
                        f"data.cache_dir={folder}/cache",
                        f"trainer.max_steps={4 + steps + 2}",
                        "+trainer.limit_val_batches=1",
                        "trainer.check_val_every_n_epoch=1000000",
                        "trainer.val_check_interval=null",
                        f"paths.run={folder}/run",
                        *settings,
                    ],
                )
            runs.train(config)
    finally:
        runs.build_callbacks = original
    return counter.waits.found


def main() -> None:
    """Count for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", help="NAME=FILE")
    parser.add_argument("--steps", type=int, default=4, help="one in four with phonons")
    parser.add_argument("--set", nargs="*", default=[], help="options of pft-train")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name, model in (pair.split("=", 1) for pair in options.models):
        found = count(model, options.steps, options.set)
        print(f"{name}: {found.total()} waits in {options.steps} steps")
        for (operation, line), number in found.most_common():
            print(f"  {number:5d} {operation} @ {line}")
        results[name] = {f"{op} @ {line}": n for (op, line), n in found.most_common()}
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
