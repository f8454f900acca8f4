"""Save the dashboard of ``docs/wandb_and_clusters.md`` as a view of a W&B project.

``pip install wandb-workspaces``, ``wandb login``, then
``python docs/wandb_workspace.py ENTITY PROJECT``. It prints the address of the view.
"""

from __future__ import annotations

import sys
from typing import Any


# Section -> title of a plot -> metrics in it. Those that a run does not log stay away:
# the first names are those of pft-train, with a MACE configuration as well, names like
# val0_epoch/... those of nequip-train.
LAYOUT = {
    "Gain: curvature": {
        "Hessian-vector products, MAE (eV/Å²)": [
            "phonon/hvp_mae",
            "val_phonon_epoch/hvp_mae",
        ],
        "Frequencies, MAE (THz)": ["phonon/mesh_frequency_mae"],
        "Entropy (J/K/mol)": ["phonon/entropy_error"],
        "Free energy (kJ/mol)": ["phonon/free_energy_error"],
        "Heat capacity (J/K/mol)": ["phonon/heat_capacity_error"],
        "Forces at rest, MAE (eV/Å)": ["phonon/forces_mae"],
    },
    "Forgetting: upstream frames": {
        "Energy, MAE (eV/atom)": [
            "upstream/energy_mae",
            "val0_epoch/per_atom_energy_mae",
        ],
        "Forces, MAE (eV/Å)": ["upstream/forces_mae", "val0_epoch/forces_mae"],
        "Stress, MAE (eV/Å³)": ["upstream/stress_mae", "val0_epoch/stress_mae"],
    },
    "Losses": {
        "Phonon step": ["train/phonon_loss"],
        "Upstream step": ["train/upstream_loss", "train_loss_step/weighted_sum"],
        "Hessian term": ["train/phonon_hvp", "train/hvp_mae"],
    },
    "Machine": {
        "Learning rate": ["lr-AdamW", "lr-AdamW/pg1", "lr-Adam", "lr-Adam/pg1"],
        "Structures per second": ["train/device/samples_per_sec"],
    },
}


def build(entity: str, project: str) -> Any:
    """Make the view, without sending it.

    Args:
        entity: user or team.
        project: name.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(
            name=name,
            is_open=True,
            panels=[
                wr.LinePlot(title=title, x="trainer/global_step", y=metrics)
                for title, metrics in plots.items()
            ],
        )
        for name, plots in LAYOUT.items()
    ]
    before_after = wr.BarPlot(
        title="Hessian-vector products, MAE after training (eV/Å²)",
        metrics=[wr.SummaryMetric("after/phonon/hvp_mae")],
    )
    sections[0].panels.append(before_after)
    return ws.Workspace(
        name="Phonon fine-tuning", entity=entity, project=project, sections=sections
    )


if __name__ == "__main__":
    workspace = build(*sys.argv[1:3])
    workspace.save()
    print(workspace.url)
