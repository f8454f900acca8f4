r"""Draw ``bands.png`` of the README from an evaluation of the quickstart.

The two commands before it, in the environment of MACE, five minutes on two cores::

    pft-train experiment=quickstart hydra.run.dir=quickstart
    pft-evaluate model.checkpoint=quickstart/model.model \
        phonons='${pft_example:phonons/val}' \
        compare.base.checkpoint='${pft_example:base.model}' hydra.run.dir=evaluation
    python make_readme_figure.py evaluation bands.png
"""

from __future__ import annotations

import argparse
import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pft_lightning.evaluation.folder import EvaluationFolder
from pft_lightning.plots.bands import path_ticks
from pft_lightning.types import PhononProperties


# Crystals of the validation, all of them.
CRYSTALS = ("Si-1.015", "SiC-1.015", "MgO-1.015", "NaF-1.015")
# Label -> name, colour, width, line; told apart with any colour vision.
LINES = {
    "reference": ("DFT", "0.65", 3.5, "-"),
    "base": ("before", "#D55E00", 1.2, "--"),
    "model": ("after", "#0072B2", 1.2, "-"),
}


def main() -> None:
    """Read the folder of an evaluation and write the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("evaluation", help="folder that pft-evaluate filled")
    parser.add_argument("out", help="file of the figure")
    arguments = parser.parse_args()
    folder = EvaluationFolder(arguments.evaluation)
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    for axes, crystal in zip(figure.subplots(2, 2).flat, CRYSTALS, strict=True):
        _draw(axes, folder.read_properties(crystal))
        axes.set_title(crystal.split("-")[0], fontsize="medium")
    figure.supylabel("Frequency (THz)", fontsize="medium")
    handles = [
        line for line in figure.axes[0].get_lines() if line.get_label()[0] != "_"
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=130, facecolor="white")
    # 64 colours are all of them, at a quarter of the size.
    Image.open(drawn).convert("RGB").quantize(64).save(arguments.out, optimize=True)


def _draw(axes: Axes, properties: dict[str, PhononProperties]) -> None:
    for label, (name, colour, width, line) in LINES.items():
        bands = properties[label].bands
        assert bands is not None
        for x, y in zip(bands.distances, bands.frequencies, strict=True):
            axes.plot(x, y, color=colour, linewidth=width, linestyle=line)
        axes.get_lines()[-1].set_label(name)
        axes.set_xticks(*path_ticks(bands), fontsize="x-small")
        axes.set_xlim(bands.distances[0][0], bands.distances[-1][-1])
    axes.set_ylim(bottom=0.0)
    axes.grid(axis="x", color="0.8", linewidth=0.6)


if __name__ == "__main__":
    main()
