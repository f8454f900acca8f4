"""Fine-tune SevenNet-0 with Equitrain 1.0; runs in Equitrain's own environment.

Equitrain's command line has no option for its decayed difference and reads no
checkpoint of SevenNet, so its Python entry points are used as its README shows them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def main() -> None:
    """Train, and write what SevenNet's calculator opens beside ``summary.json``."""
    given = parse()
    folder = Path(given.out)
    shutil.rmtree(folder, ignore_errors=True)
    prepare(given, folder)
    torch.set_default_dtype(torch.float32)  # Equitrain's preprocessing changed it
    torch.manual_seed(given.seed)
    options, config = build(given, folder)
    # Not with the others: this script shows its help where Equitrain is not installed.
    from equitrain import train

    wall, processor = time.perf_counter(), time.process_time()
    train(options)
    taken = {
        "wall_s": time.perf_counter() - wall,
        "processor_s": time.process_time() - processor,
    }
    # Equitrain keeps each epoch that is better on the validation structures than those
    # before it: the last of them, and the last within the shorter time.
    from equitrain.checkpoint import load_checkpoint

    for name, limit in (("model", given.epochs), ("early", given.early)):
        options.load_checkpoint_model = str(best_until(folder / "run", limit))
        assert load_checkpoint(options, options.model)[0]
        write(options.model, config, folder / f"{name}.pth")
    summary = {**vars(given), **taken, "versions": versions()}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))


def parse() -> argparse.Namespace:
    """Options of this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", help="extended XYZ")
    parser.add_argument("valid", help="extended XYZ, for the schedule and the choice")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--early", type=int, help="epochs of the shorter time")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--decay", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def prepare(given: argparse.Namespace, folder: Path) -> None:
    """Write Equitrain's own files of the structures."""
    from equitrain import get_args_parser_preprocess, preprocess

    options = get_args_parser_preprocess().parse_args([])
    options.train_file, options.valid_file = given.train, given.valid
    options.output_dir = str(folder)
    folder.mkdir(parents=True)
    preprocess(options)


def build(given: argparse.Namespace, folder: Path) -> tuple[Any, Any]:
    """Options of a training of Equitrain with its network, and that network's form."""
    from equitrain import get_args_parser_train
    from equitrain.backends.torch_wrappers import SevennetWrapper
    from equitrain.finetune import TorchDeltaFineTuneWrapper
    from sevenn.util import model_from_checkpoint, pretrained_name_to_path

    model, config = model_from_checkpoint(pretrained_name_to_path("7net-0"))
    model.cutoff = torch.tensor(model.cutoff)  # Equitrain calls item() of it
    options = get_args_parser_train().parse_args([])
    options.train_file = str(folder / "train.h5")
    options.valid_file = str(folder / "valid.h5")
    options.output_dir = str(folder / "run")
    options.model = TorchDeltaFineTuneWrapper(SevennetWrapper(options, model))
    options.dtype = "float32"
    options.epochs = given.epochs
    options.batch_size = given.batch_size
    options.lr, options.weight_decay = given.lr, given.decay
    # Of its paper; the files have no energies and no stresses. Its defaults are AdamW,
    # a Huber loss of 0.01 and a rate that is halved on a plateau.
    options.energy_weight, options.stress_weight = 0.0, 0.0
    options.forces_weight = 100.0
    options.scheduler_monitor = "val"
    options.num_workers, options.pin_memory = 0, False
    options.seed = given.seed
    options.verbose = 1
    return options, config


def best_until(run: Path, epoch: int) -> Path:
    """File of the best epoch among the first ones."""
    found = {
        int(folder.name.split("@")[1].split("_")[0]): folder
        for folder in run.glob("best_val_epochs@*")
    }
    return found[max(n for n in found if n <= epoch)] / "model.safetensors"


def write(model: Any, config: Any, path: Path) -> None:
    """Write a checkpoint of the present SevenNet with the trained weights."""
    deltas = dict(model.named_delta_parameters())
    state = {
        # The wrapped network is called "model" by its wrapper.
        name: (value + deltas.get(f"model.{name}", 0.0)).detach()
        for name, value in model.model.state_dict().items()
    }
    # SevenNet sorted weights of an earlier version when it read them, and is not to do
    # it again.
    config = {**config, "version": version("sevenn")}
    torch.save({"model_state_dict": state, "config": config}, path)


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    return {name: version(name) for name in ("equitrain", "sevenn", "torch", "e3nn")}


if __name__ == "__main__":
    main()
