"""Blocks of options made of the classes and functions that take them.

Type, unit and range come from the annotations (``option_types``), defaults from the
signature, and what an option is from the docstring: each stands once, where it is used.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import hydra.utils
from pydantic import ConfigDict, Field, create_model

from pft_lightning.option_types import Added, As, Given, Options
from pft_lightning.options.libraries import LIBRARIES


_SECTION = re.compile(r"(Args|Attributes):")
_ENTRY = re.compile(r"    (\w+): (.*)")
MISSING = "???"  # OmegaConf's mark of a value that has to be given


class _Arguments(Options):
    model_config = ConfigDict(extra="allow")


@cache
def block_of(*sources: Callable[..., Any], closed: bool = False) -> type[Options]:
    """Make a block of the arguments of classes, or the keyword arguments of functions.

    Args:
        sources: Whose arguments; with more than one, those of all.
        closed: Refuse others here; a ``_target_`` is compared with its signature.
    """
    fields: dict[str, Any] = {}
    for source in sources:
        sentences = describe_arguments(source)
        hints = _hints(source)
        for name, parameter in inspect.signature(source).parameters.items():
            kind = _kind(hints.get(name, Any), parameter, inspect.isclass(source))
            if kind is not None:
                default = _default(source, parameter)
                fields[name] = (
                    kind,
                    Field(default=default, description=sentences.get(name)),
                )
    name = getattr(sources[0], "__name__", "options")
    block: type[Options] = create_model(
        name,
        __base__=Options if closed else _Arguments,
        __doc__=inspect.getdoc(sources[0]),
        **fields,
    )
    return block


def block_for(target: object) -> type[Options] | None:
    """The block of what a ``_target_`` names; None where nothing is known of it."""
    name = str(target)
    if name in LIBRARIES:
        return LIBRARIES[name]
    if not name.startswith("pft_lightning."):
        return None
    try:
        found = hydra.utils.get_class(name)
    except Exception:  # a wrong name is reported where the class is made
        return None
    return block_of(found)


def defaults_of(block: type[Options]) -> dict[str, Any]:
    """What a block is composed of before anything is chosen, as in a YAML file."""
    values: dict[str, Any] = {}
    for name, field in block.model_fields.items():
        if any(isinstance(entry, Added) for entry in field.metadata):
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, Options):
            values[name] = defaults_of(field.annotation)
        elif field.is_required():
            values[name] = MISSING
        else:
            values[name] = _plain(field.get_default(call_default_factory=True))
    return values


def choice(target: str, **values: Any) -> dict[str, Any]:
    """A choice of a group of options: a class, its defaults, and what differs.

    Args:
        target: Dotted path of the class.
        values: In place of defaults, or beside them.
    """
    block = block_for(target)
    defaults = {} if block is None else defaults_of(block)
    special = {name: value for name, value in values.items() if name.startswith("_")}
    return {"_target_": target, **special, **defaults, **values}


@cache
def describe_arguments(source: Callable[..., Any]) -> Mapping[str, str]:
    """What the docstring of a class or function says of each argument."""
    found: dict[str, str] = {}
    owners = inspect.getmro(source) if inspect.isclass(source) else (source,)
    for owner in owners:
        section, name = False, ""
        for line in inspect.cleandoc(owner.__doc__ or "").splitlines():
            if line and not line.startswith(" "):
                section, name = bool(_SECTION.match(line)), ""
            elif section and (entry := _ENTRY.match(line)):
                name = entry[1] if entry[1] not in found else ""
                if name:
                    found[name] = entry[2]
            elif section and name and line.strip():
                found[name] += f" {line.strip()}"
    return {key: _as_sentence(text) for key, text in found.items()}


@cache
def describe_options(block: type[Options]) -> Mapping[str, str]:
    """What a block says of its options, each in the string below it.

    pydantic would read them when it makes the block, which takes each command longer
    than all else that it does before it starts to work. Only help pages show them.
    """
    found: dict[str, str] = {}
    for owner in reversed(inspect.getmro(block)):
        if not issubclass(owner, Options):
            continue
        try:
            (made,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        except OSError:  # made by ``block_of``, which knows what they are
            continue
        body = made.body if isinstance(made, ast.ClassDef) else []
        for option, below in itertools.pairwise(body):
            if isinstance(option, ast.AnnAssign) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value)
                found[ast.unparse(option.target)] = inspect.cleandoc(text)
    return found


def _as_sentence(text: str) -> str:
    """A capital first, and null for None, as in a configuration."""
    text = re.sub(r"\bNone\b", "null", text)
    first = text.partition(" ")[0]
    return text if not first.islower() else f"{text[:1].upper()}{text[1:]}"


def _hints(source: Any) -> dict[str, Any]:
    is_class = inspect.isclass(source) and not dataclasses.is_dataclass(source)
    return get_type_hints(source.__init__ if is_class else source, include_extras=True)


def _kind(hint: Any, parameter: inspect.Parameter, of_class: bool) -> Any:
    """The type of an argument in a configuration; None where it is no option."""
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        return None
    if not of_class and parameter.kind is not parameter.KEYWORD_ONLY:
        return None
    metadata = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    if any(entry is Given or isinstance(entry, Given) for entry in metadata):
        return None
    for entry in metadata:
        if isinstance(entry, As):
            return entry.kind
    return hint


def _default(source: Any, parameter: inspect.Parameter) -> Any:
    if parameter.default is parameter.empty:
        return ...
    if dataclasses.is_dataclass(source):
        for field in dataclasses.fields(source):
            made = field.default_factory
            if field.name == parameter.name and made is not dataclasses.MISSING:
                return made()
    return _plain(parameter.default)


def _plain(value: Any) -> Any:
    """A default as a YAML file has it."""
    if isinstance(value, tuple):
        return list(value)
    return value


def first_sentence(text: str) -> str:
    """The first sentence of what an option is, without its full stop."""
    match = re.match(r"(.+?)\.(?=\s+[A-Z`]|$)", text, re.DOTALL)
    return match[1] if match else text.rstrip(".")
