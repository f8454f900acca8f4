"""What pages refer to is there: files, headings, and the options of commands."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.cli.command import quote_paths
from pft_lightning.errors import PFTError
from pft_lightning.options.check import check_options
from pft_lightning.options.schema import Evaluate, Export, Prepare, Train
from pft_lightning.runs.evaluate import _TASKS


ROOT = Path(__file__).parents[2]
# Those of the site.
PAGES = sorted(
    {
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benchmarks/**/README.md"),
        ROOT / "tests/README.md",
        ROOT / "pft_lightning/example/README.md",
    }
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
CODE = re.compile(r"^```(?:bash|sh)?\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`(pft-\w+ [^`]*=[^`]*)`")
SCHEMAS = {"train": Train, "evaluate": Evaluate, "prepare": Prepare, "export": Export}
# What Hydra sets.
RUNS = {"train": ["paths.run=run"], "evaluate": ["paths.run=run"]}
# For options of the reader.
PLACEHOLDERS = ("...", "…")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and the site make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_what_a_page_links_to_is_there(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = Path(os.path.normpath(page.parent / target)) if target else page
        assert path.is_file(), f"{relative(page)} links to {link}"
        assert path.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(path), f"{relative(page)} links to {link}"


def commands(page: Path) -> list[str]:
    """What starts a command of ours, in code blocks and within the text."""
    text = page.read_text(encoding="utf-8")
    found = [" ".join(line.split()) for line in INLINE.findall(FENCE.sub("", text))]
    for block in CODE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            # Behind `&&`, variables and `torchrun`, before a remark.
            if match := re.search(
                r"(?:^|&& |= )(pft-\w+ .*?)(?: +#.*| &&.*|\))?$", line
            ):
                found.append(match[1])
    return found


def test_pages_have_commands():
    assert sum(len(commands(page)) for page in PAGES) > 40


@pytest.mark.parametrize(
    "page",
    # Those on adding a part are executed, with what they add, by test_pages.
    [page for page in PAGES if commands(page) and not page.stem.startswith("add_")],
    ids=relative,
)
def test_the_options_of_a_command_on_a_page_exist(page):
    for line in commands(page):
        try:
            compose_line(line)
        except (HydraException, PFTError) as error:
            raise AssertionError(f"{relative(page)}: {line}\n{error}") from error


def compose_line(line: str) -> None:
    """Compose the configuration of a command and compare it with the schema."""
    name, *words = shlex.split(line)
    kind = name.removeprefix("pft-")
    given = [word for word in words if "=" in word]
    assert {*words} <= {*given, *PLACEHOLDERS, "--multirun"}, line
    if "--multirun" in words:
        given = [word.split(",")[0] for word in given]
    # Launchers are plug-ins of Hydra, which are not installed here.
    given = [word for word in given if not re.match(r"hydra[/.]launcher", word)]
    # "phonons=" names an option and leaves its value to the reader.
    named = [f"{word}null" for word in given if word.endswith("=")]
    given = quote_paths([word for word in given if not word.endswith("=")])
    if "task=conductivity" in given and not any("protocol=" in w for w in given):
        given.append("protocol=matbench")
    given += RUNS.get(kind, ())
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose(kind, overrides=given)
        if named:
            compose(kind, overrides=[*given, *named])
    schema = SCHEMAS[kind]
    if kind == "evaluate":
        schema = _TASKS.get(config.task, (None, Evaluate))[1]
    missing = OmegaConf.missing_keys(config)  # a page may show a part
    check_options(config, schema, not_needed=missing)
