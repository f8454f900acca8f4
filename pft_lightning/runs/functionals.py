"""Exchange-correlation functionals behind potentials and behind force constants.

Hardly any file says it: phonopy's do not, and most models do not. What does say it is
read: options, the INCAR beside a calculation, the model card that an export wrote, the
data that a model file names, the names of foundation models, heads and files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig, OmegaConf

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.registry import functional_of_foundation_model
from pft_lightning.data.sources import find_sources
from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.force_constants import Potential
from pft_lightning.json_files import find_json
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.provenance import FORMAT, provenance_path


# Words of names. A scan alone is no functional there: of lattices, convergence, ...
_WORDS = {
    "pbesol": "PBEsol", "revpbe": "revPBE", "rpbe": "RPBE", "pbe": "PBE",
    "pbe0": "PBE0", "r2scan": "r2SCAN", "rscan": "rSCAN", "lda": "LDA",
    "hse06": "HSE06", "hse": "HSE06", "b3lyp": "B3LYP", "wb97m": "ωB97M",
}  # fmt: skip
# Data sets with Materials Project's choice of U (arXiv:2302.14231, 2410.12771).
_DATA_SETS = dict.fromkeys(("mptrj", "salex", "omat", "omat24"), "PBE(+U)")
# Values of GGA and METAGGA in an INCAR (vasp.at/wiki/GGA, /METAGGA).
_GGA = {
    "PE": "PBE", "PS": "PBEsol", "RE": "revPBE", "RP": "RPBE", "91": "PW91",
    "CA": "LDA", "AM": "AM05",
}  # fmt: skip
_METAGGA = {"SCAN": "SCAN", "RSCAN": "rSCAN", "R2SCAN": "r2SCAN"}
# Tasks of pft-evaluate that compare with no DFT, and those with a protocol of cells.
_WITHOUT_DFT = ("force_constants", "measured")
_OF_PHONONS = ("compare", "trade_off")
_TAG = re.compile(r"\s*(\w+)\s*=\s*(\S+)")
# Values of METAGGA that name none.
_NO_METAGGA = ("--", "NONE", ".FALSE.", "F")
# 1/Å; HSE06, as it is written and in full (vasp.at/wiki/HFSCREEN).
_HSE06_SCREENING = (0.2, 0.207)
# What has a functional: options, and keys of summaries.
MODEL, PHONONS = "model", "phonons"
_MOST_FILES, _MOST_BYTES = 50, 100_000

_WARNING = (
    "Functionals differ: the base model is of {model} ({model_from}), the force "
    "constants are of {phonons} ({phonons_from}). Curvature of another functional is "
    "taught at cells that the potential does not relax to. Frequencies at these cells "
    "gain, but third order can bend: after such a training conductivities of MgO were "
    "closer to DFT and those of LiF further from it (docs/train.md). Evaluate at cells "
    "as the potential relaxes them, too, and conductivities before you rely on them. "
    "functional.model and functional.phonons say it otherwise."
)
_WARNING_OF_COMPARISON = (
    "Functionals differ: {models}, and what is compared with is of {phonons} "
    "({phonons_from}). A part of the errors is the functional's and no failure of the "
    "potential, most of it at cells that the potential does not relax to{remedy}. "
    "functional.model and functional.phonons say it otherwise."
)
_REMEDY = "; compare at cells as it relaxes them, too (protocol=mdr)"


@dataclass(frozen=True, slots=True)
class Functional:
    """A functional, and what says it.

    Attributes:
        name: such as PBE.
        stated_by: an option, a file or a name, without where it is.
    """

    name: str
    stated_by: str


def find_functionals(config: DictConfig, model: EnergyModel) -> dict[str, Functional]:
    """Functionals of a training, as far as anything says them.

    Args:
        config: of the training.
        model: as loaded.

    Returns:
        ``model``, of the base model, and ``phonons``, of the force constants; what
        nothing says is left out.
    """
    found = {
        MODEL: _stated(config, MODEL) or _of_model(config.model.checkpoint, model),
        PHONONS: _stated(config, PHONONS)
        or _of_phonons(OmegaConf.select(config, "data.phonons.train")),
    }
    return {what: functional for what, functional in found.items() if functional}


def compare_functionals(
    config: DictConfig, potentials: Mapping[str, Potential]
) -> dict[str, Any]:
    """Find the functionals of an evaluation, and warn where a potential's differs.

    Of a fine-tuned potential it is that of its base model, as model cards keep it.

    Args:
        config: of ``pft-evaluate``, as checked.
        potentials: by label, as loaded. Calculators and those whose file nothing is
            known of have none.

    Returns:
        ``phonons``, what is compared with, and ``models`` by label, each with ``name``
        and ``stated_by``; empty where one of the two is not known.
    """
    phonons = _stated(config, PHONONS) or _of_phonons(
        config.reference if config.phonons is None else config.phonons
    )
    models = {
        label: found
        for label, potential in potentials.items()
        if isinstance(potential, EnergyModel)
        and (found := _of_compared(config, label, potential))
    }
    if phonons is None or not models or config.task in _WITHOUT_DFT:
        return {}
    other = {
        label: found
        for label, found in models.items()
        if _plain(found.name) != _plain(phonons.name)
    }
    if other:
        relaxes = (
            config.task not in _OF_PHONONS
            # With "atoms" the lattice stays that of DFT.
            or config.protocol.relax is True
        )
        rank_zero_warn(
            _WARNING_OF_COMPARISON.format(
                models=_name_groups(other),
                phonons=phonons.name,
                phonons_from=phonons.stated_by,
                remedy="" if relaxes else _REMEDY,
            )
        )
    return {PHONONS: asdict(phonons), "models": as_summary(models), "differ": [*other]}


def warn_of_difference(found: Mapping[str, Functional]) -> None:
    """Warn once, on the first process, where two functionals are known and differ.

    Args:
        found: from ``find_functionals``.
    """
    if len(found) < 2:
        return
    model, phonons = found[MODEL], found[PHONONS]
    if _plain(model.name) != _plain(phonons.name):
        rank_zero_warn(
            _WARNING.format(
                model=model.name,
                model_from=model.stated_by,
                phonons=phonons.name,
                phonons_from=phonons.stated_by,
            )
        )


def as_summary(found: Mapping[str, Functional]) -> dict[str, Any]:
    """What ``summary.json`` and model cards keep."""
    return {what: asdict(functional) for what, functional in found.items()}


def _plain(name: str) -> str:
    """For comparison: without Hubbard's U, which some elements have and others not."""
    without = name.lower().replace("(+u)", "").replace("+u", "")
    return re.sub(r"[^a-zω0-9]", "", without)


def _name_groups(found: Mapping[str, Functional]) -> str:
    """Labels with their functional, those that share one together, as mixes do."""
    groups: dict[Functional, list[str]] = {}
    for label, functional in found.items():
        groups.setdefault(functional, []).append(label)
    return ", ".join(
        f"{' and '.join(labels)} {'is' if len(labels) == 1 else 'are'} of "
        f"{functional.name} ({functional.stated_by})"
        for functional, labels in groups.items()
    )


def _stated(config: DictConfig, what: str) -> Functional | None:
    name = OmegaConf.select(config, f"functional.{what}")
    return Functional(str(name), f"functional.{what}") if name else None


def _of_compared(
    config: DictConfig, label: str, model: EnergyModel
) -> Functional | None:
    """Of one of the potentials of an evaluation; mixes are of their base model's."""
    if label in config.compare:
        return _of_model(config.compare[label].get("checkpoint"), model)
    told = _stated(config, MODEL)
    if told is None and config.run is not None:
        told = _of_run(RunFolder(config.run))
    return told or _of_model(config.base or config.model.checkpoint, model)


def _of_model(checkpoint: str | None, model: EnergyModel) -> Functional | None:
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    if path.is_file() and (told := _of_export(path)):
        return told
    if model.head and (name := _in_name(model.head)):
        return Functional(name, f"head {model.head}")
    for data in model.training_data:
        if name := _of_data_set(data):
            return Functional(name, f"{path.name}: trained on {data}")
    if path.is_file():
        name = _in_name(path.name)
        return Functional(name, f"name of {path.name}") if name else None
    name = functional_of_foundation_model(checkpoint)
    return Functional(name, f"foundation model {checkpoint}") if name else None


def _of_export(path: Path) -> Functional | None:
    """Of the base model of what an export or a run wrote, by what lies beside it."""
    card = provenance_path(path)
    content = find_json(card) or {}
    if content.get("format") == FORMAT and (name := _of_base(content)):
        return Functional(name, f"model card {card.name}")
    return _of_run(RunFolder(path.parent), path.name)


def _of_run(run: RunFolder, model: str | None = None) -> Functional | None:
    """Of the base model of a training, if it wrote the file that is asked for."""
    content = find_json(run.summary) or {}
    name = _of_base(content)
    if name is None or (model is not None and content.get("model") != model):
        return None
    return Functional(name, f"{run.path.name}/{run.summary.name}")


def _of_base(content: Mapping[str, Any]) -> str | None:
    """Of the base model; the force constants' may differ."""
    told = content.get("functionals")
    model = told.get("model") if isinstance(told, dict) else None
    name = model.get("name") if isinstance(model, dict) else None
    return name if isinstance(name, str) else None


def _of_data_set(name: str) -> str | None:
    words = re.split(r"[^a-z0-9]+", name.lower())
    found = (_DATA_SETS.get(word) for word in words)
    return next(filter(None, found), None)


def _of_phonons(spec: Any) -> Functional | None:
    """Of all files, if nothing contradicts it."""
    if spec is None:
        return None
    listed = [spec] if isinstance(spec, str) else [str(entry) for entry in spec]
    beside = _beside(listed)
    if beside is not None:
        return beside
    stated = [_in_path(entry) for entry in listed]
    names = {functional and functional.name for functional in stated}
    return stated[0] if len(names) == 1 else None


def _beside(spec: list[str]) -> Functional | None:
    try:
        paths = find_sources(spec).paths
    except DataFormatError:
        return None  # is said where they are read
    folders = dict.fromkeys(p if p.is_dir() else p.parent for p in paths)
    files = (folder / "INCAR" for folder in folders)
    found = {
        name: path
        for path in islice(filter(Path.is_file, files), _MOST_FILES)
        if (name := _of_incar(path)) is not None
    }
    if len(found) != 1:
        return None
    ((name, path),) = found.items()
    return Functional(name, f"{path.parent.name}/{path.name}")


def _of_incar(path: Path) -> str | None:
    """What its tags say; without them it is the POTCAR's, which is not read."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return None
    # A comment ends its line, and ; a statement within it.
    lines = (re.split(r"[#!]", line)[0] for line in text.upper().splitlines())
    found = (_TAG.match(part) for line in lines for part in line.split(";"))
    tags = {tag[1]: tag[2] for tag in found if tag}
    if tags.get("METAGGA") in _NO_METAGGA:
        del tags["METAGGA"]
    if _is_true(tags.get("LHFCALC")):
        return _of_hybrid(tags)
    if "METAGGA" in tags:
        return _METAGGA.get(tags["METAGGA"])
    return _GGA.get(tags.get("GGA", ""))


def _is_true(value: str | None) -> bool:
    return value is not None and value.lstrip(".").startswith("T")


def _of_hybrid(tags: Mapping[str, str]) -> str | None:
    """HSE06 and PBE0; None for all others, which share their GGA with them."""
    try:
        share = float(tags.get("AEXX", "0.25"))
        screening = float(tags.get("HFSCREEN", "0"))
    except ValueError:
        return None
    # Without GGA it is the POTCAR's, which a hybrid is hardly of anything but PBE.
    if "METAGGA" in tags or tags.get("GGA", "PE") != "PE" or share != 0.25:
        return None
    if screening == 0:
        return "PBE0"
    return "HSE06" if screening in _HSE06_SCREENING else None


def _in_path(path: str) -> Functional | None:
    """By the last part of a path whose name has the word of a functional."""
    for part in reversed(Path(path).parts):
        if name := _in_name(part):
            return Functional(name, f"name of {part}")
    return None


def _in_name(name: str) -> str | None:
    # Some write PBE_sol.
    whole = re.sub(r"(?<![a-z0-9])pbe[^a-z0-9]+sol(?![a-z0-9])", "pbesol", name.lower())
    words: Iterable[str] = re.split(r"[^a-z0-9]+", whole)
    found = {_WORDS[word] for word in words if word in _WORDS}
    return found.pop() if len(found) == 1 else None
