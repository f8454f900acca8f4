"""Compare a configuration with the schema before anything is computed."""

from __future__ import annotations

import inspect
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from pft_lightning.errors import ConfigError
from pft_lightning.options.remedies import unknown_option
from pft_lightning.options.targets import TARGETS
from pft_lightning.options.types import UNKNOWN, Options, Words
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
        yield prefix, TARGETS.get(str(node["_target_"]), Options), node


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
        kinds = set(_kinds(field.annotation))
        whole = int in kinds and float not in kinds
        if whole and isinstance(value, float) and value.is_integer():
            yield name, int(value)


def _problems(
    prefix: str, block: type[Options], node: dict[str, Any], missing: Collection[str]
) -> dict[str, str]:
    """What is wrong with the values of a block, by name of the option."""
    if block is Options:  # a class that the schema does not know
        return {}
    try:
        block.model_validate(node)
    except ValidationError as error:
        found = {}
        for entry in error.errors(include_url=False):
            path = _path_in(node, entry["loc"])
            name = prefix + ".".join(path)
            if name in missing:
                continue
            if entry["type"] == "extra_forbidden":
                known = _find(block, path[:-1])
                found[name] = unknown_option(name, _names(known))
            elif entry["type"] == UNKNOWN:
                for extra in entry["ctx"]["unknown"]:
                    one = f"{name}.{extra}" if path else f"{prefix}{extra}"
                    found[one] = unknown_option(one, entry["ctx"]["known"])
            elif entry["type"] == "missing" and "_target_" in node:
                continue  # the class has a default, or says that it has none
            elif entry["type"] == "missing":
                name = ".".join(filter(None, [name.rstrip("."), str(entry["loc"][-1])]))
                found[name] = f"{name} is not given, and has no default."
            else:
                value = _value(node, path)
                words = describe(_find(block, path))
                found[name] = f"{name}={_shown(value)}; expected {words}."
        return found
    return {}


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
    return list(known.model_fields) if _is_block(known) else []


def _is_block(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Options)


def _find(kind: Any, path: list[str]) -> Any:
    """The field, or the block, that a path leads to, or the last one on its way."""
    for part in path:
        annotation: Any = kind.annotation if isinstance(kind, FieldInfo) else kind
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
            if not _is_block(annotation):
                return kind
            kind = annotation
        elif _is_block(annotation) and part in annotation.model_fields:
            kind = annotation.model_fields[part]
        else:
            return kind
    annotation = kind.annotation if isinstance(kind, FieldInfo) else kind
    return annotation if _is_block(annotation) else kind


def _kinds(annotation: Any) -> Iterator[Any]:
    """Types that a value can have, without lists and dictionaries of them."""
    if get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    else:
        yield annotation


def _metadata(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        for entry in own:
            yield from (entry, *getattr(entry, "metadata", ()))
        yield from _metadata(inner)
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _metadata(part)


def describe(field: Any) -> str:
    """Say what a field of the schema accepts: type, range, unit."""
    if _is_block(field):
        return f"a block with some of {', '.join(field.model_fields)}"
    metadata = [*field.metadata, *_metadata(field.annotation)]
    if words := [entry.text for entry in metadata if isinstance(entry, Words)]:
        return words[0]
    kinds = list(_kinds(field.annotation))
    texts = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            texts.append(f"one of {', '.join(map(str, get_args(kind)))}")
        elif kind in (int, float):
            texts.append(_number(kind, metadata))
        elif kind is not type(None):
            named = {bool: "true or false", str: "text"}
            texts.append(named.get(kind, "a block of options"))
    units = [entry.description for entry in metadata if isinstance(entry, FieldInfo)]
    unit = next(filter(None, [field.description, *units]), None)
    null = ", or null" if type(None) in kinds else ""
    return f"{' or '.join(texts)}{f' ({unit})' if unit else ''}{null}"


def _number(kind: type, metadata: Collection[Any]) -> str:
    bounds = {
        name: getattr(entry, name)
        for name in ("gt", "ge", "lt", "le")
        for entry in metadata
        if getattr(entry, name, None) is not None
    }
    if {"ge", "le"} <= set(bounds):
        ranges = f"from {bounds['ge']} to {bounds['le']}"
    else:
        words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "at most"}
        ranges = " and ".join(f"{words[key]} {bound}" for key, bound in bounds.items())
    return f"{'a whole number' if kind is int else 'a number'} {ranges}".strip()
