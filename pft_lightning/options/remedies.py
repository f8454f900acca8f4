"""What to do instead, where an option does not exist or cannot be parsed."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException

from pft_lightning.options.choices import first_choices, groups, root_options


# Names of other programs for what is meant here.
_SYNONYMS = {
    "learning_rate": "lr",
    "epochs": "max_epochs",
    "n_epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "max_num_epochs": "max_epochs",
    "steps": "max_steps",
    "n_steps": "max_steps",
    "num_steps": "max_steps",
    "clip_grad": "gradient_clip_val",
    "grad_clip": "gradient_clip_val",
    "gradient_clip": "gradient_clip_val",
    "gpus": "devices",
    "n_gpus": "devices",
    "device": "accelerator",
    "ema_decay": "decay",
    "r_max": "cutoff",
    "output": "out",
    "model_path": "checkpoint",
}
_MANY = 20  # options that are not listed where one is near


def unknown_option(
    name: str, known: Collection[str] = (), config_name: str = "train"
) -> str:
    """Say that an option does not exist, and what to write instead.

    Args:
        name: with the names of the blocks that it lies in.
        known: options beside it, without these names.
        config_name: of the command.
    """
    message = f"{name}: there is no such option."
    if choices := _choices_with(name, config_name):
        return f"{message} It comes with {' or '.join(choices)}: add that."
    near = _nearest(name, known, config_name)
    if near:
        message += f" Nearest: {', '.join(near)}."
    if known and not (near and len(known) > _MANY):
        message += f" Expected some of {', '.join(known)}."
    return message


def explain(error: Exception, config_name: str) -> str:
    """Say in one line what Hydra says in several, and what to do about it.

    Args:
        error: of the composition of a configuration.
        config_name: of the command.
    """
    text = str(error)
    if isinstance(error, OverrideParseException):
        return _explain_grammar(error.override)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice}; expected one of {', '.join(error.options)}."
    if found := re.match(r"Could not override '(.*)'\.", text):
        names = {name for name, _ in _options(config_name)}
        names |= {name.partition(".")[0] for name in names}
        name = found[1]
        message = unknown_option(name, config_name=config_name)
        if "Nearest" in message or "add that" in message:
            return message
        near = difflib.get_close_matches(name, names, n=3)
        beside = f" Nearest: {', '.join(near)}." if near else ""
        return (
            f"{message}{beside} See --cfg job for all. An argument of the class behind "
            f"the block that is not set yet is added as +{name}=..."
        )
    if found := re.match(r"Ambiguous value for argument '(.*?)=(.*)'", text):
        name, value = found.groups()
        return (
            f"{name}={value}: several values ask for several runs (--multirun). For a "
            f"list write {shlex.quote(f'{name}=[{value}]')}, for one name with commas "
            f"{_quoted(name, value)}."
        )
    if found := re.match(r"Could not append to config. .* at '(.*)'", text):
        return f"+{found[1]}: there is such an option; write it without +."
    if "group override" in text:
        return (
            "a group of options (model, probe, trainer, ...) is chosen by name, e.g. "
            f"trainer=default; got another kind of value ({text})."
        )
    lines = [line for line in text.splitlines() if line and "hydra.cc" not in line]
    return " ".join(lines)


def quote(name: str, value: str) -> str:
    """Write an override so that Hydra takes its value as text, whatever is in it."""
    text = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    return f"{name}='{text}'"


def _quoted(name: str, value: str) -> str:
    """The same as one word of a shell."""
    return shlex.quote(quote(name, value) if "'" in value else f'{name}="{value}"')


def _explain_grammar(override: str) -> str:
    name, separator, value = override.partition("=")
    if not separator:
        return (
            f"{override}: is not an option; expected NAME=VALUE, e.g. seed=1 "
            "(--help lists the groups, --cfg job all options)."
        )
    remedy = _quoted(name, value)
    if value.startswith("["):
        entries = ",".join(f'"{entry}"' for entry in value.strip("[]").split(","))
        remedy = shlex.quote(f"{name}=[{entries}]")
    return (
        f"{override}: cannot be parsed. A value with one of = [ ] {{ }} ( ) , ' \" # "
        "or a letter that is not ASCII needs quotes, and the shell another pair: "
        f"{remedy}"
    )


def _nearest(name: str, known: Collection[str], config_name: str) -> list[str]:
    """Full names of the options that may have been meant."""
    block, _, last = name.rpartition(".")
    wanted = _SYNONYMS.get(last, last)
    if wanted in known:
        return [f"{block}.{wanted}" if block else wanted]
    if known:
        near = difflib.get_close_matches(last, known, n=1)
        return [f"{block}.{option}" if block else option for option in near]
    everywhere = {option for option, _ in _options(config_name)}
    same = sorted(o for o in everywhere if o.rpartition(".")[2] == wanted)
    inside = [option for option in same if option.rpartition(".")[0] == block]
    return inside or same[:3]


def _choices_with(name: str, config_name: str) -> list[str]:
    """The choices of a group of options in whose files an option is set."""
    found = {choice for option, choice in _options(config_name) if option == name}
    return [] if "" in found else sorted(found)


@lru_cache
def _options(config_name: str) -> list[tuple[str, str]]:
    """Every option of a command, with the choice of a group that brings it.

    The choice is empty where the option is always there.
    """
    found = [(name, "") for name in _leaves(root_options(config_name), "")]
    for group, first in first_choices(config_name).items():
        for choice, values in groups()[group].items():
            # What a group starts with is there unless another one is chosen.
            brought = "" if choice == first else f"{group}={choice}"
            found += [(name, brought) for name in _leaves(values, f"{group}.")]
    return found


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if prefix + key in ("defaults", "hydra") or key.startswith("_"):
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key
