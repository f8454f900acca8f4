"""Options of ``mace_run_train`` from a YAML file, read by MACE's own parser."""

from __future__ import annotations

import argparse
import ast
import contextlib
import glob
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from pft_lightning.backends.mace.state import keep_global_state
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.integrations.mace.options import (
    FROM_FOUNDATION,
    NOT_IN_FILES,
    group_of,
    left_out,
    nearest,
    refused,
    switched_off,
)
from pft_lightning.integrations.mace.values import unusable
from pft_lightning.safe_yaml import load_yaml


with keep_global_state():
    from mace.tools import build_default_arg_parser, get_tag

# Names that MACE takes in place of a file of replay data.
NAMED_DATA = ("mp", "matpes_pbe", "matpes_r2scan", "omat")
# Of a file of options.
_MAX_BYTES = 10_000_000
_FILES = ("train_file", "valid_file", "pt_train_file", "pt_valid_file")


def read_arguments(
    path: str | Path, changes: Mapping[str, Any] | None = None
) -> argparse.Namespace:
    """Read a file as ``mace_run_train --config`` does, and check it.

    Args:
        path: YAML file.
        changes: values by option that replace those of the file.

    Raises:
        ConfigError: not a readable file of options, an option that MACE does not
            know, or one that is refused (see ``mace_options``).
        DataFormatError: a file that it names does not exist.
    """
    path = Path(path)
    parser = build_default_arg_parser()
    given = _check_names(path, parser)
    arguments = _parse(path, parser)
    for name, value in (changes or {}).items():
        option, converted = _convert(parser, name, value)
        setattr(arguments, option, converted)
    if problems := [*refused(vars(arguments)), *checkpoints_of_mace(arguments)]:
        raise ConfigError(
            f"{path}: pft-train cannot do what these options of MACE ask for:\n  "
            + "\n  ".join(problems)
        )
    if problems := unusable(arguments):
        raise ConfigError(
            f"{path}: values that mace_run_train has no use for:\n  "
            + "\n  ".join(problems)
        )
    _check_files(path, arguments)
    _warn(path, arguments, {**given, **(changes or {})})
    vars(arguments).update(switched_off(vars(arguments)))
    return arguments


def _warn(path: Path, arguments: argparse.Namespace, given: dict[str, Any]) -> None:
    """Name the options that have no effect, once for each reason."""
    values = vars(arguments)
    names = [name for name in values if name in given]
    if kept := [n for n in names if given[n] is False and values[n] is True]:
        rank_zero_warn(f"{path}: MACE cannot switch off: {', '.join(kept)}.")
    if unused := left_out(names):
        rank_zero_warn(f"{path}: without effect here: {'; '.join(unused)}.")
    for name in switched_off(vars(arguments)):
        rank_zero_warn(f"{path}: {name}: {group_of(name).note}.")
    unread = [name for name in names if name in FROM_FOUNDATION]
    if arguments.foundation_model and unread:
        rank_zero_warn(
            f"{path}: MACE ignores beside foundation_model, which decides on them: "
            f"{', '.join(unread)}."
        )


def checkpoints_of_mace(arguments: argparse.Namespace) -> Iterator[str]:
    """Say which training ``mace_run_train`` would go on with, if any."""
    folder = arguments.checkpoints_dir or Path(arguments.work_dir, "checkpoints")
    tag = get_tag(name=arguments.name, seed=arguments.seed)
    if arguments.restart_latest and (
        found := sorted(Path(folder).glob(f"{glob.escape(tag)}_epoch-*.pt"))
    ):
        yield (
            f"restart_latest=True: mace_run_train would go on from {found[-1]}, which "
            "holds weights without a network and cannot be continued here. Give the "
            "last .model as foundation_model, or restart_latest: false "
            "(+mace.restart_latest=false) to start anew"
        )


def option_names(parser: argparse.ArgumentParser) -> dict[str, str]:
    """By every name that a file may use, the name of the option."""
    return {
        text[2:]: action.dest
        for action in parser._actions
        if action.dest not in NOT_IN_FILES
        for text in action.option_strings
        if text.startswith("--")
    }


def _check_names(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Options that a file sets, as it writes them.

    MACE's parser would only print its whole usage for one that it does not know.
    """
    try:
        content = load_yaml(path, max_bytes=_MAX_BYTES)
    except OSError as error:
        raise ConfigError(
            f"mace_config={path}: cannot be read ({error.strerror}). Give the YAML "
            "file that mace_run_train takes with --config."
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"mace_config={path}: holds a {type(content).__name__}; expected lines "
            "such as 'lr: 0.01'."
        )
    known = option_names(parser)
    for key in map(str, content):
        if key.removeprefix("--") not in known:
            raise ConfigError(
                f"{path}: mace_run_train has no option {key!r}.{nearest(key, known)}"
            )
    return {known[str(k).removeprefix("--")]: value for k, value in content.items()}


def _parse(path: Path, parser: argparse.ArgumentParser) -> argparse.Namespace:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parser.parse_args([f"--config={path}"])
    except SystemExit as error:
        lines = complaint.getvalue().strip().splitlines()
        reason = lines[-1].partition("error: ")[2] or lines[-1]
        raise ConfigError(f"{path}: MACE does not accept it: {reason}.") from error


def _convert(parser: argparse.ArgumentParser, name: str, value: Any) -> tuple[str, Any]:
    """Option and value, converted as on the command line of ``mace_run_train``."""
    known = option_names(parser)
    if name not in known:
        raise ConfigError(
            f"mace.{name}: mace_run_train has no such option.{nearest(name, known)}"
        )
    action = next(a for a in parser._actions if a.dest == known[name])
    if value is None or isinstance(value, list) or isinstance(action.const, bool):
        return action.dest, value
    try:
        return action.dest, parser._get_values(action, [str(value)])
    except argparse.ArgumentError as error:
        raise ConfigError(f"mace.{name}={value}: {error.message}.") from error


def _check_files(path: Path, arguments: argparse.Namespace) -> None:
    for option, name in _named_files(path, arguments):
        if name not in NAMED_DATA and not os.path.exists(name):
            raise DataFormatError(
                f"{path}: {option}={name}: no such file or folder. Relative paths "
                f"start at {Path.cwd()}, as in mace_run_train."
            )


def _is_heads(heads: Any) -> bool:
    return (
        isinstance(heads, dict)
        and len(heads) > 0
        and all(
            isinstance(head, dict) and (name == "pt_head" or head.get("train_file"))
            for name, head in heads.items()
        )
    )


def _named_files(
    path: Path, arguments: argparse.Namespace
) -> Iterator[tuple[str, str]]:
    values = vars(arguments)
    heads: dict[str, Any] = {}
    if arguments.heads is not None:
        try:
            heads = ast.literal_eval(arguments.heads)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            heads = {}
        if not _is_heads(heads):
            raise ConfigError(
                f"{path}: heads={arguments.heads}: expected a dictionary of heads with "
                "their options, e.g. {'DFT': {'train_file': 'dft.xyz'}}, with a "
                "train_file each."
            )
    if not heads and arguments.train_file is None:
        raise ConfigError(
            f"{path}: names no training frames; give train_file, or heads with one "
            "train_file each."
        )
    model = arguments.foundation_model
    if model is not None and ("/" in model or model.endswith((".model", ".pt"))):
        yield "foundation_model", model
    if arguments.statistics_file is not None:
        yield "statistics_file", arguments.statistics_file
    settings = [("", values), *((f"heads.{n}.", head) for n, head in heads.items())]
    for prefix, setting in settings:
        for option in _FILES:
            names = setting.get(option)
            for name in [names] if isinstance(names, str) else names or ():
                yield prefix + option, name
