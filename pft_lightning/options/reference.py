"""Every option in words: ``docs/reference.md``, help pages and ``--info``.

``python -m pft_lightning.options.reference`` prints the page.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic.fields import FieldInfo

from pft_lightning.backends.registry import BACKENDS
from pft_lightning.option_types import Added
from pft_lightning.options.blocks import block_for, describe_options, first_sentence
from pft_lightning.options.choices import (
    COMMANDS,
    block_of_choice,
    first_choices,
    groups,
    primary,
    root_options,
)
from pft_lightning.options.commands import COMMANDS as WORDS
from pft_lightning.options.describe import describe, is_block
from pft_lightning.options.remedies import unknown_option


@dataclass(frozen=True, slots=True)
class Entry:
    """An option as users see it.

    Attributes:
        name: with the names of the blocks that it lies in.
        default: as a YAML file has it; None if it has none, or has to be added.
        accepts: type, range and unit, in words.
        meaning: what it is, in full.
        sentence: the first of that.
        is_added: whether it is absent unless it is added, with + in front.
    """

    name: str
    default: str | None
    accepts: str
    meaning: str
    sentence: str
    is_added: bool = False


@cache
def root_entries(command: str) -> tuple[Entry, ...]:
    """Options of a command that are in no group."""
    chosen = first_choices(command)
    values = OmegaConf.merge(root_options(command), _differing(command))
    block = COMMANDS[command]
    entries = _entries(block, _node(values), "")
    return tuple(e for e in entries if e.name.partition(".")[0] not in chosen)


@cache
def group_entries(command: str, group: str, choice: str) -> tuple[Entry, ...]:
    """Options that a choice of a group brings."""
    values = OmegaConf.merge(
        groups()[group][choice], _differing(command).get(group) or {}
    )
    block = block_of_choice(command, group, choice)
    return tuple(_entries(block, _node(values), f"{group}."))


def all_entries(command: str) -> Iterator[tuple[str, Entry]]:
    """Every option of a command, with the choice that brings it, empty for none."""
    for entry in root_entries(command):
        yield "", entry
    for group, first in first_choices(command).items():
        for choice in groups()[group]:
            brought = "" if choice == first else f"{group}={choice}"
            for entry in group_entries(command, group, choice):
                yield brought, entry


def _differing(command: str) -> DictConfig:
    """What the YAML file of a command has in place of defaults."""
    config = primary(command)
    names = set(COMMANDS[command].model_fields)
    return OmegaConf.masked_copy(config, [str(n) for n in config if n in names])


def _node(values: Any) -> dict[str, Any]:
    node: Any = OmegaConf.to_container(values)
    return dict(node)


def _entries(block: Any, node: Mapping[str, Any], prefix: str) -> Iterator[Entry]:
    """Options of a block, and of the blocks in it."""
    if "_target_" in node:
        block = block_for(node["_target_"])
    fields = block.model_fields if is_block(block) else {}
    below = describe_options(block) if is_block(block) else {}
    for name, value in node.items():
        if name.startswith("_") or (prefix == "" and name == "hydra"):
            continue
        field = fields.get(name)
        if isinstance(value, dict) and (value or _is_open(field)):
            inner = field.annotation if field is not None else None
            yield from _entries(inner, value, f"{prefix}{name}.")
        else:
            yield _entry(f"{prefix}{name}", field, value, below.get(name, ""))
    for name, field in fields.items():
        if any(isinstance(entry, Added) for entry in field.metadata):
            yield _entry(
                f"{prefix}{name}",
                field,
                field.default,
                below.get(name, ""),
                is_added=True,
            )


def _is_open(field: FieldInfo | None) -> bool:
    return field is None or is_block(field.annotation)


def _entry(
    name: str,
    field: FieldInfo | None,
    value: Any,
    below: str,
    *,
    is_added: bool = False,
) -> Entry:
    default = None if value == "???" else _yaml(value)
    if field is None:
        return Entry(name, default, "", "An argument of the class.", "")
    meaning = " ".join((field.description or below).replace("``", "`").split())
    return Entry(
        name, default, describe(field), meaning, first_sentence(meaning), is_added
    )


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=999)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def explain_option(command: str, name: str) -> str:
    """What an option is, what it accepts and its default; of a block, all in it.

    Raises:
        KeyError: There is none; the message says which there are.
    """
    inside: dict[str, tuple[str, Entry]] = {}
    for brought, entry in all_entries(command):
        if entry.name == name:
            return _page(entry, brought)
        if entry.name.startswith(f"{name}."):
            inside.setdefault(entry.name, (brought, entry))
    lines = []
    if name in first_choices(command):
        lines = [f"{name}: a group, of which one is chosen by {name}=..."]
        lines += [f"  {choice:<24} {_about(name, choice)}" for choice in groups()[name]]
    elif not inside:
        raise KeyError(unknown_option(name, config_name=command))
    lines += [f"  {name}" for name in inside]
    return "\n".join([*lines, f"One of them: pft-{command} --info OPTION"])


def _page(entry: Entry, brought: str) -> str:
    lines = [f"{entry.name}: {entry.meaning}"]
    if entry.accepts:
        lines.append(f"  accepts  {entry.accepts}")
    none = "none, it has to be given"
    lines.append(f"  default  {none if entry.default is None else entry.default}")
    if brought:
        lines.append(f"  comes with  {brought}")
    if entry.is_added:
        lines.append(f"  added as  +{entry.name}=...")
    return "\n".join(lines)


def _about(group: str, choice: str) -> str:
    """What a choice is, in a sentence: that of its class."""
    values = groups()[group][choice]
    target = str(values.get("_target_", ""))
    block = block_for(target)
    if group == "model" and choice in BACKENDS:
        return f"{BACKENDS[choice].kind}."
    if block is None:
        return _CHOICES.get((group, choice), "")
    text = inspect.cleandoc(block.__doc__ or "").partition("\n\n")[0]
    return " ".join(text.split())


_CHOICES = {
    ("model", "auto"): "Framework found from the content of the file.",
    ("loss", "pft"): "Weights of arXiv:2601.07742 with co-training.",
    ("callbacks", "default"): "Average, best and last weights, rates, speed.",
    ("callbacks", "early_stopping"): "The same, and an end where errors stop falling.",
    ("callbacks", "phonon_validation"): "The same, and phonons of some materials.",
    ("callbacks", "conductivity_validation"): "Both, and conductivities of crystals.",
    ("logger", "none"): "No logger, and no callback that needs one.",
    ("protocol", "dft_cell"): "Phonons in the reference's own cell.",
    ("protocol", "mdr"): "Relaxed first, finite displacements (arXiv:2412.16551).",
    ("protocol", "mdr_analytic"): "The same with analytic force constants.",
    ("protocol", "ml_peg"): "As ML-PEG 0.7 scores phonons, in lattices of DFT.",
    ("protocol", "matbench"): "Conductivities, relaxed loosely in one stage.",
    ("protocol", "k_srme"): "Conductivities, relaxed tightly in two stages.",
    ("compare", "none"): "No other potential; add compare.LABEL.checkpoint=FILE.",
}


def reference() -> str:
    """The page with every option of every command."""
    parts = [_HEAD]
    for command, words in WORDS.items():
        parts.append(f"## pft-{command}\n\n{words.purpose}\n")
        parts.append(_table(root_entries(command)))
        for group, first in first_choices(command).items():
            parts.append(_group(command, group, first))
    return "\n".join(parts).rstrip() + "\n"


_HEAD = """\
# Reference of all options

Made by `python -m pft_lightning.options.reference` from the classes that take them: do
not edit. On the command line an option is `NAME=VALUE`; `pft-train --info NAME` tells
more of one. A default of **—** has to be given. What is marked **+** is absent unless
it is added, as `+NAME=VALUE`; so is every other argument of a class that is named here.
"""


def _group(command: str, group: str, first: str) -> str:
    if command != "train" and group == "model":
        intro = "The groups are those of `pft-train`.\n"
        choices = [first]
    else:
        intro, choices = "", list(groups()[group])
    lines = [f"### {group}\n\n{intro}"]
    seen: set[Entry] = set()
    for choice in choices:
        mark = " (default)" if choice == first else ""
        about = _about(group, choice)
        entries = group_entries(command, group, choice)
        new = [entry for entry in entries if entry not in seen]
        seen |= set(new)
        lines.append(f"**{group}={choice}**{mark}: {about}\n")
        if new:
            lines.append(_table(new))
    return "\n".join(lines)


def _table(entries: Any) -> str:
    lines = ["| option | default | accepts | what it is |", "|---|---|---|---|"]
    for entry in entries:
        default = "**—**" if entry.default is None else f"`{entry.default}`"
        mark = "**+** " if entry.is_added else ""
        cells = [f"{mark}`{entry.name}`", default, entry.accepts, entry.sentence]
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
