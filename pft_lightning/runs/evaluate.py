"""One evaluation, from its configuration to its report or files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import timedelta

from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation.conductivity.runner import ConductivityEvaluation
from pft_lightning.evaluation.crystals import CrystalPhonons, compute_crystals
from pft_lightning.evaluation.folder import SUMMARY_FILE, Summary
from pft_lightning.evaluation.materials import Evaluated
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.evaluation.runner import Evaluation, evaluate_phonons
from pft_lightning.options.check import check_options
from pft_lightning.options.schema import Evaluate
from pft_lightning.plots.page import remove_report
from pft_lightning.plots.report import write_report
from pft_lightning.runs.conductivity import (
    EvaluateConductivity,
    check_conductivity,
    check_protocol,
    compute_conductivity,
)
from pft_lightning.runs.dashboard import dashboard, send
from pft_lightning.runs.elastic import compute_elastic
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.measured import check_measured, compute_measured
from pft_lightning.runs.qha import compute_qha
from pft_lightning.runs.soft_modes import check_soft_modes, compute_soft_modes
from pft_lightning.runs.start import begin
from pft_lightning.runs.tables import print_crystals, print_evaluation
from pft_lightning.runs.third_order import compute_third_order
from pft_lightning.runs.trade_off import add_trade_off, check_trade_off, load_mixes


# Ranks finish at different times, and one material can take hours.
_TIMEOUT = timedelta(days=30)

Found = Evaluation | CrystalPhonons | ConductivityEvaluation | Evaluated


def evaluate(config: DictConfig) -> Found:
    """Run one evaluation from a composed configuration.

    Args:
        config: As composed from ``conf/evaluate.yaml``.

    Returns:
        Of the tasks that take crystals what was computed of all, else the evaluation.

    Raises:
        PFTError: Anything in the configuration or the data that cannot be used.
    """
    compute, schema = _TASKS.get(str(config.get("task")), (_evaluate, Evaluate))
    of_crystals = compute not in (_evaluate, compute_third_order, compute_soft_modes)
    of_either = compute is compute_soft_modes
    if not (of_crystals or of_either) and config.get("structures") is not None:
        raise ConfigError(
            f"structures={config.structures}: crystals are what task=force_constants "
            "and task=conductivity, elastic, soft_modes, qha or measured take; add "
            "one, or give phonons=PATH, of DFT phonons to compare with."
        )
    check_protocol(config)
    not_needed = (
        "model.checkpoint",
        *(("phonons",) if of_crystals or of_either else ()),
    )
    config = check_options(config, schema, not_needed=not_needed)
    if OmegaConf.is_missing(config.model, "checkpoint"):
        config.model.checkpoint = None  # a calculator takes its place
    if of_crystals:
        _check_crystals(config)
    if of_either:
        check_soft_modes(config)
    check_measured(config)
    check_conductivity(config)
    check_trade_off(config)
    folder = RunFolder(config.paths.run)
    with folder.locked():
        fabric = build_fabric(config)
        try:
            with dashboard(config, is_first=fabric.is_global_zero) as logger:
                found = compute(config, fabric, folder)
                if logger is not None:
                    send(logger, found.summary, found.rows, folder.path)
            return found
        except SystemExit:
            # SIGTERM came to this process alone, and the others would wait for it.
            for process in getattr(fabric.strategy.launcher, "procs", ()):
                process.terminate()
            raise


def _evaluate(config: DictConfig, fabric: Fabric, folder: RunFolder) -> Evaluation:
    mixes = load_mixes(config, fabric.device) if config.task == "trade_off" else None
    start = begin(config, fabric, folder, mixes.potentials if mixes else None)
    values = start.values
    evaluation = evaluate_phonons(
        start.potentials,
        values["phonons"],
        protocol=Protocol(**values["protocol"]),
        out=folder.path,
        upstream=values["upstream"],
        upstream_keys=values["upstream_keys"],
        upstream_limits=values["upstream_limits"],
        upstream_heads=mixes.upstream_heads if mixes else None,
        engine=config.engine,
        **start.common,
    )
    if fabric.is_global_zero:
        if mixes:
            add_trade_off(evaluation, mixes.shares, folder.path)
        report = write_report(folder.path)
        print_evaluation(evaluation.summary, folder.path, report)
    return evaluation


def _check_crystals(config: DictConfig) -> None:
    """Refuse what has no meaning where there are no phonons to compare with."""
    if config.structures is None:
        raise ConfigError(
            f"task={config.task} needs structures=PATH: crystals that ASE reads (CIF, "
            "POSCAR, extended XYZ), or phonopy files."
        )
    if OmegaConf.is_missing(config, "phonons"):
        config.phonons = None
    if config.task in ("conductivity", "elastic", "qha", "measured"):
        compared = "compares no phonons of DFT: it computes potentials"
        refused: tuple[str, ...] = ("phonons", "upstream")
    else:
        compared = "compares nothing: it computes one potential"
        refused = ("phonons", "upstream", "compare")
    for name in refused:
        if config[name]:
            raise ConfigError(
                f"{name} is given, and task={config.task} {compared} on the crystals "
                "of structures=PATH. Leave it out, or leave out the task."
            )


def _compute_crystals(
    config: DictConfig, fabric: Fabric, folder: RunFolder
) -> CrystalPhonons:
    start = begin(config, fabric, folder)
    given = start.values["force_constants"]
    supercell = SupercellOptions(
        **{field.name: given.pop(field.name) for field in fields(SupercellOptions)}
    )
    found = compute_crystals(
        start.potentials,
        start.values["structures"],
        folder.path,
        supercell,
        Protocol(**start.values["protocol"]),
        engine=config.engine,
        **start.common,
        **given,
    )
    if fabric.is_global_zero:
        remove_report(folder.path)  # of another task: it speaks of other results
        print_crystals(found)
    return found


_TASKS: Mapping[
    str, tuple[Callable[[DictConfig, Fabric, RunFolder], Found], type[Evaluate]]
] = {
    "force_constants": (_compute_crystals, Evaluate),
    "conductivity": (compute_conductivity, EvaluateConductivity),
    "elastic": (compute_elastic, Evaluate),
    "soft_modes": (compute_soft_modes, Evaluate),
    "qha": (compute_qha, Evaluate),
    "measured": (compute_measured, Evaluate),
    "third_order": (compute_third_order, Evaluate),
}


def build_fabric(config: DictConfig) -> Fabric:
    """Start this process's share of the work, in Lightning's own way."""
    shared = config.devices != 1 or config.num_nodes != 1
    # gloo: the processes only exchange numbers, and never leave the CPU for it.
    strategy = DDPStrategy(process_group_backend="gloo", timeout=_TIMEOUT)
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=strategy if shared else "auto",
        )
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"accelerator={config.accelerator}, devices={config.devices}: cannot be "
            f"used here ({error})."
        ) from error
    fabric.launch()
    return fabric


def check_evaluation(summary: Summary) -> None:
    """Refuse an evaluation that says nothing of a potential.

    Args:
        summary: Totals, counts and failures.

    Raises:
        DataFormatError: No material could be read, or a potential failed on each.
    """
    counts = summary["counts"]
    reasons = {f["model"]: f"{f['name']}: {f['error']}" for f in summary["failures"]}
    if counts["unreadable"] == counts["materials"]:
        raise DataFormatError(
            f"none of {counts['materials']} materials could be read ({reasons[None]})."
        )
    for label, failed in counts["failed"].items():
        if failed == counts["materials"]:
            why = reasons.get(label, reasons.get(None))
            raise DataFormatError(
                f"{label} failed on every one of {failed} materials ({why}). "
                f"{SUMMARY_FILE} has all reasons."
            )
