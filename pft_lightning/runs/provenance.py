"""Where an exported potential comes from: for machines, and as a model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from ase.data import chemical_symbols
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.parametrized import plain
from pft_lightning.backends.registry import load_model, runs_code
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.evaluation.trade_off import relative_change
from pft_lightning.files import compute_sha256
from pft_lightning.json_files import find_json
from pft_lightning.runs.agreement import Agreement
from pft_lightning.runs.folder import RunFolder, collect_versions
from pft_lightning.runs.kinds import KINDS
from pft_lightning.runs.native import name_sources
from pft_lightning.runs.tables import UNITS, find_metrics


FORMAT = "pft_lightning.provenance"
_VERSION = 1
_PAPER = "https://arxiv.org/abs/2601.07742"
# Parts of a configuration that make the recipe of a card; none of them names a file.
_RECIPE = (
    *("model", "adaptation", "replay", "probe", "loss"),
    *("optimizer", "scheduler", "trainer"),
)
_ANCHOR = ("strength", "n_frames", "max_atoms", "seed", "base")
_LOCAL = ("checkpoint", "default_root_dir")
# What a card that is made of the content of a file may end in.
_OF_OTHERS = (
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
    *(jinja2.TemplateError, OmegaConfBaseException),
)
# What a card asks for and not every file has.
_UNKNOWN: dict[str, Any] = {
    "data": {},
    "run": None,
    "base_model": None,
    "functionals": None,
    "mix": None,
}


def describe_run(
    folder: RunFolder,
    config: DictConfig,
    model: EnergyModel,
    *,
    upstream: Mapping[str, list[str]],
    base_model: Mapping[str, Any],
    checkpoint: Path,
    weights: str,
    step: int,
    trust: bool,
) -> dict[str, Any]:
    """What a run says about the potential that it made.

    Args:
        folder: of the run.
        config: of the run.
        model: with the weights to be written.
        upstream: names of the files of frames, ``train`` and ``val``.
        base_model: name and hash of the file that the run started from.
        checkpoint: that the weights come from.
        weights: ``ema`` or ``raw``.
        step: optimiser steps behind the checkpoint.
        trust: run the code of a package in the folder, to compare with its weights.
    """
    recipe = OmegaConf.to_container(config)
    assert isinstance(recipe, dict)
    summary = folder.read(folder.summary) if folder.summary.is_file() else {}
    metrics = find_metrics(summary)
    if not metrics and folder.before.is_file():
        before = folder.read(folder.before)
        metrics = {k: {"before": v, "after": None} for k, v in before.items()}
    return {
        "base_model": dict(base_model),
        "functionals": summary.get("functionals"),
        "run": {
            "folder": folder.path.name,
            "checkpoint": checkpoint.name,
            "weights": weights,
            "steps": step,
            "adaptation": recipe["adaptation"],
            "trainable": summary.get("trainable"),
            "loss_weights": summary.get("loss_weights"),
        },
        "data": {
            "phonons": name_sources(config.data.phonons),
            "upstream": dict(upstream),
            "counts": summary.get("counts"),
        },
        "metrics": metrics,
        "metrics_are_of_this_file": _is_result(folder, summary, model, trust),
        "recipe": recipe,
        "versions_of_the_run": folder.read(folder.path / "versions.json"),
    }


def describe_conversion(source: Path) -> dict[str, Any]:
    """What is known of a file that is written in another form.

    Args:
        source: the file; what an earlier export left beside it is kept.
    """
    file = identify(source)
    known = {
        name: value
        for name, value in _read_card(source, file["sha256"]).items()
        if name not in ("file", "check", "created", "versions")
    }
    return {**known, "converted_from": file}


def check_base(source: Path, base: Path) -> None:
    """Refuse another base model than the one that a file was fine-tuned from.

    Args:
        source: file of the fine-tuned potential. Its card, or the run that wrote it,
            may say what it comes from.
        base: file of what is given as its base model, or the same in another form.

    Raises:
        ConfigError: it is known to come from another one.
    """
    run = RunFolder(source.parent)
    base_model = _read_card(source, compute_sha256(source)).get("base_model")
    is_of_run = (find_json(run.summary) or {}).get("model") == source.name
    if not base_model and is_of_run:
        base_model = find_json(run.base_model)
    told = base_model if isinstance(base_model, dict) else {}
    expected = told.get("sha256")
    # What a run keeps of its own, such as a network that it built, is its to mix.
    is_of_run = is_of_run and base.resolve().is_relative_to(run.path)
    if not isinstance(expected, str) or is_of_run:
        return
    sha256 = compute_sha256(base)
    earlier = _read_card(base, sha256).get("converted_from")
    converted = earlier.get("sha256") if isinstance(earlier, dict) else None
    if expected not in (sha256, converted):
        raise ConfigError(
            f"base={base}: SHA-256 {sha256[:12]}…, but {source} was fine-tuned from "
            f"{told.get('file')}, SHA-256 {expected[:12]}…. Give that file; a "
            "copy of the potential in another folder, without its card, takes any."
        )


def _read_card(path: Path, sha256: str) -> dict[str, Any]:
    """What an export left beside a file; empty where that is of another file."""
    content = find_json(provenance_path(path)) or {}
    told = content.get("file")
    is_of_it = isinstance(told, dict) and told.get("sha256") == sha256
    return content if content.get("format") == FORMAT and is_of_it else {}


def identify(path: Path) -> dict[str, Any]:
    """Name and SHA-256 of a file."""
    return {"file": path.name, "sha256": compute_sha256(path)}


def describe_mix(
    history: Mapping[str, Any], share: float, base: Mapping[str, Any]
) -> dict[str, Any]:
    """What is known of a potential between a base model and a fine-tuned one.

    Args:
        history: of the fine-tuned one.
        share: of the way to it.
        base: name and hash of the file of the base model.
    """
    known = dict(history)
    described: dict[str, Any] = {"share": share, "base": dict(base)}
    if "mix" in history:  # of a file that is a mix itself
        described["fine_tuned_is_mix"] = history["mix"]
    if "metrics" in history:
        described["metrics_are_of_its_ends"] = (
            history.get("metrics_are_of_this_file", False)
            and history.get("base_model") == base
        )
        known["metrics_are_of_this_file"] = bool(
            history.get("metrics_are_of_this_file") and share == 1
        )
    return {**known, "mix": described}


def describe_file(
    path: Path,
    name: str,
    model: EnergyModel,
    agreement: Agreement,
    remark: str | None,
    history: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything about a written file.

    Args:
        path: where it is now.
        name: that it will have.
        model: as loaded from it.
        agreement: of it with the potential.
        remark: why the validation data were not compared on, if so.
        history: from ``describe_run`` or ``describe_conversion``.
    """
    return {
        "format": FORMAT,
        "format_version": _VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "file": {
            "name": name,
            "sha256": compute_sha256(path),
            "framework": model.name,
            "dtype": str(model.dtype).removeprefix("torch."),
            "cutoff": model.cutoff,
            "elements": [chemical_symbols[z] for z in model.atomic_numbers],
            "heads": list(model.heads),
            "head": model.head,
        },
        "check": {**asdict(agreement), "remark": remark},
        "versions": collect_versions(),
        **history,
        "citation": _PAPER,
    }


def render_card(provenance: Mapping[str, Any], model: EnergyModel) -> str:
    """Markdown for people who are handed the file.

    Args:
        provenance: from ``describe_file``.
        model: as loaded from it.

    Raises:
        CheckpointError: what lay beside a file that is converted is not what an export
            writes.
    """
    try:
        return _render(provenance, model)
    except _OF_OTHERS as error:
        source = provenance.get("converted_from")
        if source is None:
            raise
        raise CheckpointError(
            f"{provenance_path(Path(source['file']))}: does not say where the "
            f"potential comes from as an export writes it ({error}). Move it away, and "
            "the file is exported without its history."
        ) from error


def _render(provenance: Mapping[str, Any], model: EnergyModel) -> str:
    recipe = provenance.get("recipe", {})
    shown = {
        name: _without_paths(recipe[name])
        for name in _RECIPE
        if recipe.get(name) is not None
    }
    anchor = (recipe.get("callbacks") or {}).get("anchor") or {}
    if anchor.get("strength"):
        held = {name: anchor.get(name) for name in _ANCHOR}
        if held["base"] is not None:
            held["base"] = Path(held["base"]).name
        shown["callbacks"] = {"anchor": held}
    for kind in KINDS.values():
        if options := recipe.get(kind.block):
            shown[kind.block] = {name: options.get(name) for name in kind.recipe}
    if "data" in recipe:
        shown = {"seed": recipe["seed"], "data": _batches(recipe["data"]), **shown}
    rows = [
        {
            "name": name,
            "unit": UNITS.get(name, ""),
            **values,
            "change": _change(name, values),
        }
        for name, values in provenance.get("metrics", {}).items()
    ]
    name = provenance["file"]["name"]
    return (
        _template().render(
            **{**_UNKNOWN, **provenance},
            rows=rows,
            forgetting=[row for row in rows if row["name"].startswith("upstream/")],
            recipe_text=OmegaConf.to_yaml(OmegaConf.create(shown)).strip(),
            provenance_name=provenance_path(Path(name)).name,
            title=model.title,
            usage=model.describe_usage(name),
        )
        + "\n"
    )


def provenance_path(path: Path) -> Path:
    """The file with the provenance of a potential, beside it."""
    return path.with_name(path.name + ".json")


def card_path(path: Path) -> Path:
    """The file with the model card of a potential, beside it."""
    return path.with_name(path.name + ".md")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pft_lightning.runs", "."),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown, of names that the user chose
    )
    environment.filters["number"] = _number
    return environment.get_template("model_card.md.jinja")


def _is_result(
    folder: RunFolder, summary: Mapping[str, Any], model: EnergyModel, trust: bool
) -> bool:
    """Whether these weights are those that the run was scored with at its end."""
    result = folder.path / f"model{model.file_suffix}"
    if summary.get("model") != result.name or not result.is_file():
        return False
    try:
        if runs_code(result) and not trust:
            return False
        scored = load_model(result, dtype=model.dtype, head=model.head).state_dict()
    except CheckpointError:
        return False
    found = plain(model).state_dict()
    return scored.keys() == found.keys() and all(
        bool((scored[name] == value).all()) for name, value in found.items()
    )


def _batches(data: Mapping[str, Any]) -> dict[str, Any]:
    """How the data were used, without where they were."""
    used = {name: data[name] for name in ("mode", "upstream_per_phonon")}
    limits = ("batch_size", "max_atoms", "max_edges")
    for source in ("phonons", "upstream"):
        if data[source] is not None:  # else of the kind's own block
            used[source] = {name: data[source][name] for name in limits}
    return used


def _without_paths(section: Any) -> Any:
    if not isinstance(section, Mapping):
        return section
    return {name: value for name, value in section.items() if name not in _LOCAL}


def _change(name: str, values: Mapping[str, float | None]) -> float | None:
    """In per cent of the value before."""
    change = relative_change(name, values["before"], values["after"])
    return None if change is None else 100 * change


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
