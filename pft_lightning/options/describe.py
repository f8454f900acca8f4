"""Say in words what options accept."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from pft_lightning.option_types import Options, Unit, Words


def is_block(kind: Any) -> bool:
    """Whether an annotation is a block of options."""
    return isinstance(kind, type) and issubclass(kind, Options)


def kinds_of(annotation: Any) -> Iterator[Any]:
    """Types that a value can have, without lists and dictionaries of them."""
    if get_origin(annotation) is Annotated:
        yield from kinds_of(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from kinds_of(part)
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
    if is_block(field):
        return f"a block with some of {', '.join(field.model_fields)}"
    metadata = [*field.metadata, *_metadata(field.annotation)]
    kinds = list(kinds_of(field.annotation))
    null = ", or null" if type(None) in kinds else ""
    if words := [entry for entry in metadata if isinstance(entry, Words)]:
        text, complete = words[0].text, words[0].is_complete
        return text if complete or "null" in text else f"{text}{null}"
    texts = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            texts.append(f"one of {', '.join(map(str, get_args(kind)))}")
        elif kind in (int, float):
            texts.append(_number(kind, metadata))
        elif kind is not type(None):
            named = {bool: "true or false", str: "text", Any: "any value"}
            texts.append(named.get(kind, "a block of options"))
    unit = unit_of(field)
    return f"{' or '.join(texts)}{f' ({unit})' if unit else ''}{null}"


def unit_of(field: FieldInfo) -> str:
    """Unit of an option; empty where it has none."""
    metadata = [*field.metadata, *_metadata(field.annotation)]
    return next((entry.text for entry in metadata if isinstance(entry, Unit)), "")


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
