"""Choices of the user's own: ``conf/experiment/mine.yaml`` in the working folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pft_lightning.errors import ConfigError
from pft_lightning.options.choices import groups
from pft_lightning.options.remedies import quote


_CHOICE = re.compile(r"\+?([\w/]+)=\[?([\w/,.-]+)\]?")


def search_conf(arguments: Sequence[str]) -> list[str]:
    """Let Hydra search ``conf`` of the working folder, where one names a file there.

    Returns:
        The arguments, with what Hydra needs beside the first of the choices.

    Raises:
        ConfigError: A file there would hide a choice that ships in the package.
    """
    folder = Path("conf").absolute()
    shipped = Path(str(files("pft_lightning.conf")))
    own = [
        place
        for place, argument in enumerate(arguments)
        if (match := _CHOICE.fullmatch(argument))
        for name in match[2].split(",")
        if name not in groups().get(match[1], ())
        and (folder / (file := f"{match[1]}/{name}.yaml")).is_file()
        and not (shipped / file).exists()
    ]
    if not own or any("hydra.searchpath=" in argument for argument in arguments):
        return list(arguments)
    for group, choices in groups().items():
        for choice in choices:
            if (hiding := folder / group / f"{choice}.yaml").is_file():
                raise ConfigError(
                    f"{hiding}: has the name of {group}={choice}, which comes with "
                    "pft_lightning; give it another name."
                )
    place = quote("", f"file://{folder}").removeprefix("=")
    first = own[0]
    searched = f"hydra.searchpath=[{place}]"
    return [*arguments[:first], searched, *arguments[first:]]
