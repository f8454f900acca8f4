"""What pack.sh takes along, made in an environment that has what it takes.

    python pack.py choose PHONONDB_PBESOL OUT [--train 200] [--val 24]
    python pack.py nequip FRAMES OUT.ckpt
    python pack.py sevennet OUT.pth
    python pack.py code WHEEL OUT
    python pack.py reference MODEL OUT

``choose`` copies sound materials, as ``benchmarks/paper`` picks them. ``nequip`` writes
a random network of NequIP, ``sevennet`` SevenNet-0 without the state of its optimizer.
``code`` takes the Python files of a wheel and what tells its version. ``reference``
writes what a step of a model gives on the CPU in double precision, by the operations of
its framework.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
import zipfile
from pathlib import Path


# Silicon and oxygen are what the checks are made on.
SYMBOLS = ("H", "C", "N", "O", "Na", "Mg", "Al", "Si", "Cl")
NEQUIP = {"num_layers": 3, "l_max": 2, "num_features": 32, "radial_mlp_width": 64}
TESTS = Path(__file__).resolve().parents[2] / "tests" / "backends"


def choose(source: Path, out: Path, n_train: int, n_val: int) -> None:
    """Copy the smallest of the sound materials."""
    rows = list(csv.DictReader(source.joinpath("index.csv").open()))
    sound = [
        row
        for row in rows
        if float(row["f_min"]) >= -0.3 and float(row["perm_raw"]) <= 0.1
    ]
    for split, number in (("train", n_train), ("val", n_val)):
        folder = out / split
        folder.mkdir(parents=True, exist_ok=True)
        chosen = [row for row in sound if row["split"] == split]
        chosen.sort(key=lambda row: int(row["bytes"]))
        for row in chosen[:number]:
            shutil.copy(source / split / f"{row['mp']}.yaml.xz", folder)
        print(f"{split}: {min(number, len(chosen))} of {len(chosen)} materials")


def write_nequip(frames: Path, out: Path) -> None:
    """Write a random network, in the file that NequIP's training writes."""
    sys.path.insert(0, str(TESTS))
    from nequip_models import write_checkpoint

    from pft_lightning.backends.nequip.files import nequip_state

    with nequip_state():
        write_checkpoint(
            out,
            frames,
            type_names=list(SYMBOLS),
            per_type_energy_shifts=dict.fromkeys(SYMBOLS, -1.0),
            per_type_energy_scales=dict.fromkeys(SYMBOLS, 1.0),
            **NEQUIP,
        )


def write_sevennet(out: Path) -> None:
    """Write SevenNet-0, which its package ships."""
    from pft_lightning import load_model

    load_model("7net-0", dtype="float32").save(out)


def take_code(wheel: Path, out: Path) -> None:
    """Unpack the Python files and the metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith((".py", "logo_ascii", "METADATA")):
                archive.extract(name, out)


def write_reference(model: Path, out: Path) -> None:
    """Write the CPU's numbers for a model into a folder."""
    os.environ["PFT_LIGHTNING_COMPILE"] = "0"

    from steps import compute
    from visit import FULL

    target = out / f"{model.stem}-{FULL.cells}.pt"
    compute(model, None, target, dtype="float64", device="cpu", cells=FULL.cells)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    choosing = commands.add_parser("choose", help="copy materials")
    choosing.add_argument("source", type=Path)
    choosing.add_argument("out", type=Path)
    choosing.add_argument("--train", type=int, default=200)
    choosing.add_argument("--val", type=int, default=24)
    network = commands.add_parser("nequip", help="write a random network")
    network.add_argument("frames", type=Path)
    network.add_argument("out", type=Path)
    foundation = commands.add_parser("sevennet", help="write SevenNet-0")
    foundation.add_argument("out", type=Path)
    code = commands.add_parser("code", help="take the code of a wheel")
    code.add_argument("wheel", type=Path)
    code.add_argument("out", type=Path)
    reference = commands.add_parser("reference", help="write the numbers of the CPU")
    reference.add_argument("model", type=Path)
    reference.add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command == "choose":
        choose(options.source, options.out, options.train, options.val)
    elif options.command == "nequip":
        write_nequip(options.frames, options.out)
    elif options.command == "sevennet":
        write_sevennet(options.out)
    elif options.command == "code":
        take_code(options.wheel, options.out)
    else:
        write_reference(options.model, options.out)


if __name__ == "__main__":
    main()
