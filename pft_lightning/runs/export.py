"""The potential of a run, or of a file, as one file of its framework, checked."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pft_lightning.adaptation.mixing import name_share
from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import ConfigError
from pft_lightning.files import check_overwrites_none, make_folder
from pft_lightning.json_files import to_json
from pft_lightning.options.check import check_options
from pft_lightning.options.schema import Export
from pft_lightning.runs.agreement import choose_structures, compare
from pft_lightning.runs.origins import Potential, find_origin
from pft_lightning.runs.provenance import (
    card_path,
    describe_file,
    provenance_path,
    render_card,
)


def export(config: DictConfig) -> EnergyModel:
    """Write a potential, its provenance and its model card; all or none of them.

    Of several mixes each is a potential of its own.

    Args:
        config: As composed from ``conf/export.yaml``.

    Returns:
        The model as loaded from the file that was written; from the last one where
        several were.

    Raises:
        CheckpointError: There is no such run or checkpoint, it is damaged, the base
            model is not the one that the run started from, or the written file does
            not predict what the potential does.
        ConfigError: The file cannot be of the kind that its name says, the options
            do not fit together, or the file is one that the potential comes from.
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
    if config.base is not None and config.mix is None:
        raise ConfigError(
            f"base={config.base}: says what model.checkpoint is mixed with; add mix=, "
            "e.g. mix=0.5, or leave it out."
        )
    potential = find_origin(config).load_potential(with_base=config.mix is not None)
    _check_suffix(out, potential.model)
    targets = _name_targets(out, config.mix, potential.model)
    for target in targets:
        check_overwrites_none(target, potential.sources)
    for target, share in targets.items():
        written = _write(target, potential if share is None else potential.mixed(share))
    return written


def _name_targets(out: Path, mix: Any, model: EnergyModel) -> dict[Path, float | None]:
    """Files to write, each with its share; None is the potential as it is."""
    if not OmegaConf.is_list(mix):
        return {out: mix}
    ending = next(e for e in model.export_suffixes if out.name.endswith(e))
    start = out.name.removesuffix(ending)
    return {
        out.with_name(f"{start}_mix{name_share(share)}{ending}"): share for share in mix
    }


def _check_suffix(out: Path, model: EnergyModel) -> None:
    if not out.name.endswith(model.export_suffixes):
        raise ConfigError(
            f"out={out}: a {model.name} potential like this one is written to files "
            f"that end in {' or '.join(model.export_suffixes)}."
        )


def _write(out: Path, potential: Potential) -> EnergyModel:
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
        card_path(partial).write_text(
            render_card(provenance, written), encoding="utf-8"
        )
        for path in (card_path, provenance_path, Path):
            os.replace(path(partial), path(out))
    print(f"{out}: {potential.description}")
    _report(out, provenance, model.remark_on(out))
    return written


def _report(out: Path, provenance: dict[str, Any], remark: str | None) -> None:
    """Print what was checked, and what to know about the file."""
    check = provenance["check"]
    print(
        f"  loaded again, and the same on {', '.join(check['structures'])} (largest "
        f"relative difference {max(check['errors'].values()):.0e})"
    )
    if check["remark"]:
        print(f"  not compared on the run's validation data: {check['remark']}")
    if remark is not None:
        print(f"  {remark}")
    print(
        f"  {provenance_path(out).name}: where it comes from; {card_path(out).name}: "
        "model card"
    )
