"""Help pages of the commands: one screen each, and the explanation of an option."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from pft_lightning.errors import ConfigError
from pft_lightning.options.choices import first_choices, groups, root_options
from pft_lightning.options.commands import COMMANDS, REFERENCE
from pft_lightning.options.reference import explain_option


_HELP = ("--help", "-h")
_INFO = ("--info", "-i")
# Kinds of information that Hydra itself gives.
_OF_HYDRA = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_WIDTH = 79
_NAME = 16  # of a group or block


def answer(command: str, arguments: Sequence[str]) -> bool:
    """Print what is asked for with ``--help`` or ``--info OPTION``.

    Returns:
        Whether something was; the command then has nothing else to do.

    Raises:
        ConfigError: There is no such option.
    """
    if any(argument in _HELP for argument in arguments):
        print(help_page(command))
        return True
    for flag in _INFO:
        if flag in arguments:
            following = list(arguments)[arguments.index(flag) + 1 :]
            name = following[0] if following else ""
            if name in _OF_HYDRA:
                return False
            if not name or name.startswith("-"):
                print(help_page(command))
                return True
            try:
                print(explain_option(command, name.partition("=")[0].lstrip("+~")))
            except KeyError as error:
                raise ConfigError(error.args[0]) from error
            return True
    return False


def help_page(command: str) -> str:
    """What a command does, three examples, its options, and where more is."""
    words = COMMANDS[command]
    lines = [f"pft-{command} NAME=VALUE ...", ""]
    lines += textwrap.wrap(words.purpose, _WIDTH)
    lines += ["", "Examples"]
    for purpose, arguments in words.examples:
        lines += [f"  # {purpose}", f"  pft-{command} {arguments}"]
    if chosen := first_choices(command):
        lines += ["", "Groups (the first is the default)"]
        for group, first in chosen.items():
            names = [first, *(name for name in groups()[group] if name != first)]
            lines += _listed(group, [name for name in names if name])
    lines += ["", "Options beside them"]
    blocks = {k: v for k, v in root_options(command).items() if isinstance(v, dict)}
    plain = [name for name in root_options(command) if name not in blocks]
    lines += textwrap.wrap(", ".join(plain), _WIDTH - 2, **_INDENT)  # type: ignore[arg-type]
    for name, block in blocks.items():
        lines += _listed(f"{name}.", list(block))
    lines += [
        "",
        f"pft-{command} --info OPTION explains an option, --cfg job shows all values;",
        f"every option with unit and default: {REFERENCE}. --hydra-help: Hydra's own.",
    ]
    return "\n".join(lines)


_INDENT = {"initial_indent": "  ", "subsequent_indent": "  "}


def _listed(name: str, values: Sequence[str]) -> list[str]:
    text = ", ".join(values) or "any"
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"  {name:<{_NAME}} ",
        subsequent_indent=" " * (_NAME + 3),
        break_on_hyphens=False,
    )


def nothing_given(command: str) -> str | None:
    """What to say where a command is given nothing at all."""
    if len(sys.argv) > 1:
        return None
    return f"{COMMANDS[command].needs} pft-{command} --help has examples."
