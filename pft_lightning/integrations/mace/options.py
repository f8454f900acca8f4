"""What becomes of every option of ``mace_run_train``; imports nothing of MACE."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


Kind = Literal["MACE", "pft_lightning", "left out", "switched off", "refused"]


@dataclass(frozen=True, slots=True)
class Group:
    """Options with the same fate.

    Attributes:
        kind: ``MACE``, its own code acts on them, as in ``mace_run_train``;
            ``pft_lightning``, taken over; ``left out``, without influence on the
            trained weights; ``switched off``, taken for the value that is
            ``accepted``; ``refused``, with values other than ``accepted``.
        note: what happens, or what to do instead.
        names: of the options.
        accepted: values that are taken as they are.
    """

    kind: Kind
    note: str
    names: tuple[str, ...]
    accepted: tuple[Any, ...] = ()


def _group(kind: Kind, note: str, names: str, accepted: tuple[Any, ...] = ()) -> Group:
    return Group(kind, note, tuple(names.split()), accepted)


_ARCHITECTURE = (
    "a network from scratch, `ScaleShiftMACE` or `MACE`; beside `foundation_model`, "
    "which decides on them, they are ignored, and the log names them"
)

GROUPS: tuple[Group, ...] = (
    _group(
        "MACE",
        "training and validation frames, split, weights of configurations",
        "train_file valid_file valid_fraction config_type_weights keep_isolated_atoms "
        "statistics_file atomic_numbers heads head_key",
    ),
    _group(
        "MACE",
        "names of the targets in the files",
        "energy_key forces_key stress_key virials_key charges_key elec_temp_key "
        "total_spin_key total_charge_key dipole_key polarizability_key",
    ),
    _group(
        "MACE",
        "foundation model, its elements, its replay data",
        "foundation_model foundation_head foundation_model_kwargs "
        "foundation_model_elements foundation_filter_elements "
        "multiheads_finetuning force_mh_ft_lr pt_train_file pt_valid_file "
        "weight_pt_head real_pt_data_ratio_threshold num_samples_pt subselect_pt "
        "filter_type_pt allow_random_padding_pt downloads_dir",
    ),
    _group(
        "MACE",
        _ARCHITECTURE,
        "r_max num_radial_basis num_cutoff_basis pair_repulsion "
        "distance_transform apply_cutoff use_last_readout_only use_embedding_readout "
        "interaction interaction_first max_ell correlation use_reduced_cg use_so3 "
        "use_agnostic_product num_interactions MLP_irreps radial_MLP hidden_irreps "
        "edge_irreps use_edge_irreps_first num_channels max_L gate scaling "
        "avg_num_neighbors compute_avg_num_neighbors mean std",
    ),
    _group(
        "MACE",
        "energies of free atoms; where the elements and heads of `foundation_model` "
        "stay as they are, MACE keeps its energies, and the log says so",
        "E0s",
    ),
    _group(
        "MACE",
        "the loss of the frames",
        "energy_weight forces_weight stress_weight virials_weight huber_delta",
    ),
    _group(
        "MACE",
        "parameter groups, Adam or AdamW",
        "lr weight_decay amsgrad beta lr_params_factors",
    ),
    _group(
        "MACE",
        "`ReduceLROnPlateau` on the loss of the validation frames, or `ExponentialLR`; "
        "stepped between epochs as MACE does",
        "scheduler lr_factor scheduler_patience lr_scheduler_gamma",
    ),
    _group(
        "MACE",
        "stage two: loss and learning rate from `start_swa` on, or when `patience` "
        "runs out before",
        "swa start_swa swa_lr swa_energy_weight swa_forces_weight swa_stress_weight "
        "swa_virials_weight",
    ),
    _group(
        "pft_lightning",
        "`seed` of the run: MACE's split, initial weights and order of frames, the "
        "probes and the order of phonons",
        "seed",
    ),
    _group("pft_lightning", "`model.dtype`", "default_dtype"),
    _group("pft_lightning", "`trainer.accelerator`; `xpu` is refused", "device"),
    _group("pft_lightning", "batches of MACE's own loader", "batch_size"),
    _group("pft_lightning", "batches of the validation", "valid_batch_size"),
    _group("pft_lightning", "workers of each loader", "num_workers"),
    _group(
        "pft_lightning",
        "`trainer.max_epochs`: passes over the frames, not over the phonons",
        "max_num_epochs",
    ),
    _group("pft_lightning", "epochs between validations", "eval_interval"),
    _group(
        "pft_lightning",
        "validations without a lower loss, then stage two or the end (MACE 0.3.16 says "
        "so too, but goes on in a run of one process)",
        "patience",
    ),
    _group("pft_lightning", "`trainer.gradient_clip_val`", "clip_grad"),
    _group(
        "pft_lightning",
        "`callbacks.ema`, with the ramp and the start of MACE's average",
        "ema ema_decay",
    ),
    _group(
        "pft_lightning",
        "`adaptation=lora` on linear layers and radial networks, the layers that MACE "
        "adapts too; other initial factors than MACE's",
        "lora lora_rank lora_alpha",
    ),
    _group(
        "pft_lightning",
        "`adaptation=freeze`: 1 and more the embedding, 5 the interactions, 6 the "
        "products, as MACE does",
        "freeze",
    ),
    _group(
        "pft_lightning",
        "`logger=wandb`",
        "wandb wandb_project wandb_entity wandb_name",
    ),
    _group(
        "pft_lightning",
        "what MACE prepares is logged in `mace/` of the run folder",
        "name log_level",
    ),
    _group(
        "left out",
        "everything is written below `hydra.run.dir`",
        "work_dir log_dir model_dir checkpoints_dir results_dir wandb_dir",
    ),
    _group(
        "left out",
        "`checkpoints/last.ckpt` and `best.ckpt` are kept; more with `callbacks`",
        "keep_checkpoints save_all_checkpoints save_cpu",
    ),
    _group(
        "left out",
        "`pft-evaluate upstream=test.xyz` compares potentials on test frames",
        "test_file test_dir multi_processed_test skip_evaluate_heads",
    ),
    _group(
        "left out",
        "`summary.json`, the logger and `report.html` of pft-evaluate",
        "plot plot_frequency plot_interaction_e error_table wandb_log_hypers",
    ),
    _group("left out", "no influence on numbers", "pin_memory"),
    _group(
        "left out",
        "MACE reads them nowhere, or where it labels replay data only: the loss says "
        "whether stresses are trained on",
        "compute_stress foundation_model_readout",
    ),
    _group(
        "left out",
        "`trainer.devices` and `trainer.num_nodes` say how many processes there are; "
        "`batch_size` is that of each, as in MACE",
        "distributed launcher",
    ),
    _group(
        "left out",
        "acts in kinds of models and losses only that are refused",
        "kspace_cutoff_factor atomic_multipoles_max_l atomic_multipoles_smearing_width "
        "field_feature_max_l field_feature_widths field_feature_norms "
        "num_recursion_steps field_si include_electrostatic_self_interaction "
        "add_local_electron_energy quadrupole_feature_corrections "
        "return_electrostatic_potentials field_norm_factor fixedpoint_update_config "
        "field_readout_config les_arguments compute_polarizability "
        "compute_atomic_dipole dipole_weight swa_dipole_weight polarizability_weight "
        "swa_polarizability_weight beta1_schedulefree beta2_schedulefree "
        "pseudolabel_replay_compute_stress",
    ),
    _group(
        "switched off",
        "no checkpoint of MACE is in its `checkpoints_dir`, so there is nothing to go "
        "on from; where there is one, it is refused by name. Runs of pft-train "
        "continue with `resume=true`",
        "restart_latest",
        (False,),
    ),
    _group(
        "switched off",
        "the same network is trained without these kernels: those of cuEquivariance "
        "have no second derivatives, those of OpenEquivariance are not used here",
        "enable_cueq only_cueq enable_oeq",
        (False,),
    ),
    _group(
        "refused",
        "kinds other than `MACE` and `ScaleShiftMACE`: their energy needs charges, "
        "fields or dipoles, which phonon data do not have",
        "model",
        ("MACE", "ScaleShiftMACE"),
    ),
    _group(
        "refused",
        "losses with dipoles; use `weighted`, `ef`, `forces_only`, `virials`, "
        "`stress`, `huber`, `universal` or `l1l2energyforces`",
        "loss",
        (
            *("ef", "weighted", "forces_only", "virials", "stress"),
            *("huber", "universal", "l1l2energyforces"),
        ),
    ),
    _group(
        "refused",
        "networks with charge or spin as input, a `foundation_model` among them: "
        "phonon data do not have them",
        "embedding_specs",
        (None,),
    ),
    _group(
        "refused",
        "`schedulefree`; use `adam` or `adamw`",
        "optimizer",
        ("adam", "adamw"),
    ),
    _group(
        "refused",
        "`gaussian`, `chebyshev`: MACE cannot tell how such a network is built again; "
        "use `bessel`",
        "radial_type",
        ("bessel",),
    ),
    _group("refused", "full-batch steps; use `optimizer: adam`", "lbfgs", (False,)),
    _group(
        "refused",
        "`pft-prepare task=pseudolabel` lets a model label frames: give these as "
        "`pt_train_file`",
        "pseudolabel_replay",
        (False,),
    ),
    _group(
        "refused",
        "every loss that MACE offers for energies compares forces; `forces_weight: 0` "
        "trains without them",
        "compute_forces",
        (True,),
    ),
    _group(
        "refused", "`pft-train --cfg job` shows a configuration", "dry_run", (False,)
    ),
)

# Beside ``foundation_model``, whose architecture, scale and shift MACE takes over.
FROM_FOUNDATION = frozenset(
    name
    for group in GROUPS
    for name in group.names
    if group.note == _ARCHITECTURE or name == "radial_type"
)

# What others call options of MACE by.
_SYNONYMS = {
    "learning_rate": "lr",
    "dtype": "default_dtype",
    "precision": "default_dtype",
    "epochs": "max_num_epochs",
    "num_epochs": "max_num_epochs",
    "max_epochs": "max_num_epochs",
    "cutoff": "r_max",
    "gradient_clip_val": "clip_grad",
    "max_grad_norm": "clip_grad",
    "val_file": "valid_file",
    "validation_file": "valid_file",
    "num_layers": "num_interactions",
    "lmax": "max_ell",
}

# Options that no file sets.
NOT_IN_FILES = ("help", "config")


def group_of(name: str) -> Group:
    """The group that an option belongs to."""
    return next(group for group in GROUPS if name in group.names)


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which option may be meant by a name that is none."""
    guess = _SYNONYMS.get(name.lower())
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
    found = guess or next(iter(near), None)
    return f" Nearest: {found!r}." if found else ""


def refused(values: Mapping[str, Any]) -> list[str]:
    """Say which options have a value that cannot be used, and what to do instead."""
    unread = FROM_FOUNDATION if values.get("foundation_model") else frozenset()
    found = [
        f"{name}={values[name]}: {group.note}"
        for name, group in _other_than_accepted(values, "refused")
        if name not in unread
    ]
    if values.get("device") == "xpu":
        found.append("device=xpu: use cpu, cuda or mps")
    return found


def switched_off(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are taken for another value, and that value."""
    found = _other_than_accepted(values, "switched off")
    return {name: group.accepted[0] for name, group in found}


def _other_than_accepted(
    values: Mapping[str, Any], kind: Kind
) -> list[tuple[str, Group]]:
    return [
        (name, group)
        for group in GROUPS
        if group.kind == kind
        for name in group.names
        if name in values and values[name] not in group.accepted
    ]


def left_out(names: Iterable[str]) -> list[str]:
    """Say which of some options have no effect, and what there is instead."""
    by_note: dict[str, list[str]] = {}
    for name in names:
        if group_of(name).kind == "left out":
            by_note.setdefault(group_of(name).note, []).append(name)
    return [f"{', '.join(found)} ({note})" for note, found in by_note.items()]


def options_table() -> str:
    """The groups as a table of the documentation."""
    lines = ["| options | who acts | what happens |", "|---|---|---|"]
    for group in GROUPS:
        names = ", ".join(f"`{name}`" for name in group.names)
        lines.append(f"| {names} | {group.kind} | {group.note} |")
    return "\n".join(lines)
