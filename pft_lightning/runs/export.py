"""The potential of a run, or of a file, as one file of its framework, checked."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.registry import find_model_file, load_model
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.files import make_folder
from pft_lightning.json_files import to_json
from pft_lightning.options.check import check_options
from pft_lightning.options.schema import Export, TrainedRun
from pft_lightning.runs.agreement import choose_structures, compare
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.kinds import open_record
from pft_lightning.runs.provenance import (
    card_path,
    describe_conversion,
    describe_file,
    describe_run,
    provenance_path,
    render_card,
)
from pft_lightning.training.checkpoint_io import read_checkpoint
from pft_lightning.training.instantiation import check_data


EMA, RAW = "ema", "raw"
_REMEDY = (
    "Export checkpoint=last or best, or continue the run with resume=true. A model "
    "file is given as model.checkpoint=."
)
_MACE_E3NN = "0.4.4"  # what mace-torch pins


@dataclass(frozen=True, slots=True)
class _Potential:
    """What is to be written.

    Attributes:
        model: with the weights.
        history: for the provenance.
        config: of the run; None for a file.
        description: in words.
    """

    model: EnergyModel
    history: dict[str, Any]
    config: DictConfig | None
    description: str


def export(config: DictConfig) -> EnergyModel:
    """Write a potential, its provenance and its model card; all or none of them.

    Args:
        config: As composed from ``conf/export.yaml``.

    Returns:
        The model as loaded from the file that was written.

    Raises:
        CheckpointError: There is no such run or checkpoint, it is damaged, the base
            model is not the one that the run started from, or the written file does
            not predict what the potential does.
        ConfigError: The file cannot be of the kind that its name says, or the options
            do not fit together.
    """
    config = check_options(config, Export)
    out = Path(config.out)
    if out.is_dir():
        raise ConfigError(f"out={out}: is a folder; expected the name of a file.")
    if (config.run is None) == (config.model.checkpoint is None):
        raise ConfigError(
            "give either run=FOLDER, of a pft-train run, or model.checkpoint=FILE, to "
            "write it in another form."
        )
    potential = _from_file(config) if config.run is None else _from_run(config)
    _check_suffix(out, potential.model)
    return _write(out, potential)


def _from_run(config: DictConfig) -> _Potential:
    folder = RunFolder.existing(config.run)
    checkpoints = {"best": folder.best_checkpoint, "last": folder.last_checkpoint}
    path = checkpoints.get(config.checkpoint, Path(config.checkpoint))
    if not path.is_file():
        there = [name for name, file in checkpoints.items() if file.is_file()]
        kept = f"checkpoint={' or '.join(there)}" if there else "none of its own"
        raise CheckpointError(
            f"{path}: no such checkpoint; expected checkpoint=best, last, or a file. "
            f"The run kept {kept}."
        )
    run_config = folder.read_config()
    record = open_record(_check_run(run_config, folder, config), folder)
    base_model = record.identify_base_model()
    checkpoint = read_checkpoint(path, remedy=_REMEDY)
    is_averaged = "current_model_state" in checkpoint
    if config.weights == EMA and not is_averaged:
        raise ConfigError(
            f"weights=ema: {path} holds no average, because the run kept none. Use "
            "weights=raw, or leave it out."
        )
    weights = config.weights or (EMA if is_averaged else RAW)
    module = record.build_module()
    module.on_load_checkpoint(checkpoint)
    # Lightning puts the average where the weights are otherwise.
    use_other = is_averaged and weights == RAW
    state = checkpoint["current_model_state" if use_other else "state_dict"]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: is not a checkpoint of the run in {folder.path}, whose potential "
            f"has other weights ({str(error).splitlines()[-1].strip()})."
        ) from error
    model = module.model
    history = describe_run(
        folder,
        run_config,
        model,
        upstream=record.upstream_sources(),
        base_model=base_model,
        checkpoint=path,
        weights=weights,
        step=int(checkpoint.get("global_step", 0)),
        trust=record.config.model.trust,
    )
    words = {EMA: "moving average", RAW: "weights without average"}
    return _Potential(model, history, record.config, f"{words[weights]} of {path}")


def _check_run(
    run_config: DictConfig, folder: RunFolder, config: DictConfig
) -> DictConfig:
    """The configuration of a run, which may be another's, to build its potential.

    It is data, and no more: what is trusted is said by the command.

    Raises:
        CheckpointError: It is damaged, or refers to something outside of it.
    """
    built = run_config.copy()
    with open_dict(built):
        built.trust_config = config.trust_config
        if OmegaConf.is_dict(built.get("model")):
            built.model.trust = config.model.get("trust", False)
    try:
        # What pft-train writes is resolved; ${oc.env:...} would hand on a secret.
        check_data(OmegaConf.to_container(built), "config")
        needed = [name for name in TrainedRun.model_fields if name in built]
        part = OmegaConf.masked_copy(built, needed)
        check_options(part, TrainedRun, trust=config.trust_config)
    except (ConfigError, OmegaConfBaseException) as error:
        raise CheckpointError(
            f"{folder.path}: config.yaml is not that of a run that can be exported: "
            f"{error}"
        ) from error
    return built


def _from_file(config: DictConfig) -> _Potential:
    options = config.model
    if config.weights is not None:
        raise ConfigError("weights= chooses among the weights of a run; leave it out.")
    model = load_model(
        options.checkpoint,
        backend=options.backend,
        dtype=options.dtype,
        head=options.head,
        trust=options.trust,
    )
    source = find_model_file(options.checkpoint, options.backend)
    return _Potential(model, describe_conversion(source), None, str(source))


def _check_suffix(out: Path, model: EnergyModel) -> None:
    if not out.name.endswith(model.export_suffixes):
        raise ConfigError(
            f"out={out}: a {model.name} potential like this one is written to files "
            f"that end in {' or '.join(model.export_suffixes)}."
        )


def _write(out: Path, potential: _Potential) -> EnergyModel:
    """Write beside the target, load, compare, and only then give the files names."""
    model = potential.model
    structures, remark = choose_structures(potential.config, model)
    make_folder(out.parent)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        partial = Path(name) / out.name
        model.save(partial)
        written = load_model(partial, backend=model.name, head=model.head)
        agreement = compare(model, written, structures)
        provenance = describe_file(
            partial, out.name, written, agreement, remark, potential.history
        )
        provenance_path(partial).write_text(to_json(provenance), encoding="utf-8")
        card_path(partial).write_text(render_card(provenance), encoding="utf-8")
        for path in (card_path, provenance_path, Path):
            os.replace(path(partial), path(out))
    print(f"{out}: {potential.description}")
    _report(out, provenance)
    return written


def _report(out: Path, provenance: dict[str, Any]) -> None:
    """Print what was checked, and what to know about the file."""
    check = provenance["check"]
    print(
        f"  loaded again, and the same on {', '.join(check['structures'])} (largest "
        f"relative difference {max(check['errors'].values()):.0e})"
    )
    if check["remark"]:
        print(f"  not compared on the run's validation data: {check['remark']}")
    e3nn = provenance["versions"].get("e3nn", "")
    if out.suffix == ".model" and e3nn != _MACE_E3NN:
        print(
            f"  pickled under e3nn {e3nn}: where MACE has its own e3nn {_MACE_E3NN}, "
            f"write it again from a portable file (out={out.stem}.safetensors)"
        )
    print(
        f"  {provenance_path(out).name}: where it comes from; {card_path(out).name}: "
        "model card"
    )
