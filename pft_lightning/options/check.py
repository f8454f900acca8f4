"""Compare a configuration with the schema before anything is computed."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from pft_lightning.errors import ConfigError
from pft_lightning.option_types import Added, Options
from pft_lightning.options.blocks import block_for
from pft_lightning.options.describe import describe, is_block, kinds_of
from pft_lightning.options.remedies import unknown_option
from pft_lightning.training.instantiation import find_class


_MOST = 10  # problems that one message lists
# What the commands give themselves.
_GIVEN = ("params", "optimizer")
_HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def check_options(
    config: DictConfig,
    schema: type[Options],
    *,
    not_needed: Collection[str] = (),
    trust: bool = False,
) -> DictConfig:
    """Check names, types and ranges of all options.

    Args:
        config: as composed by Hydra.
        schema: of the command.
        not_needed: options without a default that may be left out.
        trust: look for no class outside of the packages that are made without trust.

    Returns:
        A copy in which ``1e4`` is an integer where one is due.

    Raises:
        ConfigError: names each option that cannot be, its value and what is accepted.
    """
    config = config.copy()
    values = _resolve(config)
    missing = OmegaConf.missing_keys(config)
    needed = sorted(missing - set(not_needed))
    problems = {name: _missing(schema, config, name) for name in needed}
    for prefix, block, node in _blocks(values, schema):
        for name, value in _integers(block, node):
            node[name] = value
            if not _refers(config, prefix + name):
                OmegaConf.update(config, prefix + name, value, merge=False)
        problems |= _problems(prefix, block, node, missing)
        if "_target_" in node and not trust:
            problems |= _unknown_arguments(prefix, node)
    if problems:
        # data.seed is seed: say it once.
        own = [text for name, text in problems.items() if not _refers(config, name)]
        raise ConfigError("\n".join((own or list(problems.values()))[:_MOST]))
    return config


def _resolve(config: DictConfig) -> dict[str, Any]:
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        for name, text in _entries(OmegaConf.to_container(config), ""):
            try:
                OmegaConf.select(config, name)
            except OmegaConfBaseException:
                raise ConfigError(
                    f"{name}={text}; what it refers to cannot be found "
                    f"({str(error).splitlines()[0]})."
                ) from error
        raise
    return dict(values)


def _entries(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _entries(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _refers(config: DictConfig, name: str) -> bool:
    parent, _, key = name.rpartition(".")
    block = OmegaConf.select(config, parent) if parent else config
    # Not "key in block", which is False for a reference to what is missing.
    known = isinstance(block, DictConfig) and key in block.keys()  # noqa: SIM118
    return known and OmegaConf.is_interpolation(block, key)


def _blocks(
    values: dict[str, Any], schema: type[Options]
) -> Iterator[tuple[str, type[Options], dict[str, Any]]]:
    """The whole configuration, and every block of it with a ``_target_``."""
    yield "", schema, values
    for prefix, node in _with_target(values, ""):
        yield prefix, block_for(node["_target_"]) or Options, node


def _with_target(
    node: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in node.items():
        if isinstance(value, dict):
            if "_target_" in value:
                yield f"{prefix}{key}.", value
            yield from _with_target(value, f"{prefix}{key}.")


def _integers(
    block: type[Options], node: Mapping[str, Any]
) -> Iterator[tuple[str, int]]:
    """Whole numbers that were written as ``1e4``."""
    for name, field in block.model_fields.items():
        value = node.get(name)
        kinds = set(kinds_of(field.annotation))
        whole = int in kinds and float not in kinds
        if whole and isinstance(value, float) and value.is_integer():
            yield name, int(value)


def _problems(
    prefix: str, block: type[Options], node: dict[str, Any], missing: Collection[str]
) -> dict[str, str]:
    """What is wrong with the values of a block, by name of the option."""
    if block is Options:  # a class that nothing is known of
        return {}
    absent = () if "_target_" in node else _absent(prefix, block, node)
    found = {name: f"{name} is not given, and has no default." for name in absent}
    try:
        block.model_validate(node)
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            path = _path_in(node, entry["loc"])
            name = prefix + ".".join(path)
            if name in missing:
                continue
            if entry["type"] == "extra_forbidden":
                known = _find(block, path[:-1])
                found[name] = unknown_option(name, _names(known))
            elif (
                entry["type"] != "missing"
            ):  # the class says what it has no default for
                value = _value(node, path)
                words = describe(_find(block, path))
                found[name] = f"{name}={_shown(value)}; expected {words}."
    return found


def _absent(
    prefix: str, block: type[Options], node: Mapping[str, Any]
) -> Iterator[str]:
    """Options that a composed block has lost: deleted, or of an older run."""
    for name, field in block.model_fields.items():
        added = any(isinstance(entry, Added) for entry in field.metadata)
        value = node.get(name)
        if name not in node and not added:
            yield prefix + name
        elif is_block(field.annotation) and isinstance(value, dict):
            yield from _absent(f"{prefix}{name}.", field.annotation, value)  # type: ignore[arg-type]


def _unknown_arguments(prefix: str, node: Mapping[str, Any]) -> dict[str, str]:
    target = find_class(node["_target_"], f"{prefix}_target_")
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {}
    known = [name for name in parameters if name not in _GIVEN]
    unknown = sorted(set(node) - set(known) - set(_HYDRA))
    return {name: unknown_option(name, known) for name in map(prefix.__add__, unknown)}


def _missing(schema: type[Options], config: DictConfig, name: str) -> str:
    path = name.split(".")
    for prefix, block, _ in _blocks(OmegaConf.to_container(config), schema):  # type: ignore[arg-type]
        if name.startswith(prefix) and prefix:
            schema, path = block, name[len(prefix) :].split(".")
    return f"{name} is not given; expected {describe(_find(schema, path))}."


def _path_in(node: Any, location: tuple[int | str, ...]) -> list[str]:
    """The part of a location that names keys; pydantic adds kinds of unions to it."""
    path = []
    for part in location:
        if not isinstance(node, dict) or part not in node:
            break
        path.append(str(part))
        node = node[part]
    return path


def _value(node: Any, path: list[str]) -> Any:
    for part in path:
        node = node[part]
    return node


def _shown(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return text if len(text) < 80 else f"{text[:80]}…"


def _names(known: Any) -> list[str]:
    return list(known.model_fields) if is_block(known) else []


def _find(kind: Any, path: list[str]) -> Any:
    """The field, or the block, that a path leads to, or the last one on its way."""
    for part in path:
        annotation: Any = kind.annotation if isinstance(kind, FieldInfo) else kind
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
            if not is_block(annotation):
                return kind
            kind = annotation
        elif is_block(annotation) and part in annotation.model_fields:
            kind = annotation.model_fields[part]
        else:
            return kind
    annotation = kind.annotation if isinstance(kind, FieldInfo) else kind
    return annotation if is_block(annotation) else kind
