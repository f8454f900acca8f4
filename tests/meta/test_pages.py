"""What the developers' pages say to write works as it stands, in their order.

A block with a title is a file: written into an empty folder, or, where it is a diff,
a change to that file of the package. Python without a title is run there, and what
``pft-train`` is started with is composed, checked and made.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hydra import compose, initialize_config_module

from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.options.check import check_options
from pft_lightning.options.schema import Train
from pft_lightning.training.instantiation import instantiate


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "develop").glob("add_*.md"))
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty one, where Python also looks for modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page, folder, monkeypatch):
    namespace: dict[str, object] = {"__name__": page.stem}
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert any(language == "python" and not title for language, title, _ in blocks)
    for language, title, text in blocks:
        if language == "diff":
            change_module(title, text, monkeypatch)
        elif title:
            path = folder / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if title == "pyproject.toml":
                install(folder, tomllib.loads(text)["project"])
            importlib.invalidate_caches()
        elif language == "python":
            exec(compile(text, str(page), "exec"), namespace)
        elif language == "bash":
            for line in text.splitlines():
                try_training(line)


def test_there_is_a_page_for_each_kind_of_part():
    kinds = ("adaptation", "backend", "loss", "metric", "probe")
    assert [page.stem for page in PAGES] == [f"add_{kind}" for kind in kinds]


def change_module(title: str, diff: str, monkeypatch) -> None:
    """Put a changed copy of a module in its place, for this test."""
    name = title.removesuffix(".py").replace("/", ".")
    module = importlib.import_module(name)
    text = Path(str(module.__file__)).read_text(encoding="utf-8")
    for hunk in filter(None, diff.split("@@\n")):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(old) == 1, (
            f"{title} has not, or more than once: change the diff on the page:\n{old}"
        )
        text = text.replace(old, new)
    changed = ModuleType(name)
    changed.__file__ = module.__file__
    monkeypatch.setitem(sys.modules, name, changed)
    exec(compile(text, str(module.__file__), "exec"), changed.__dict__)


def install(folder: Path, project: dict) -> None:
    """What ``pip install -e .`` tells Python of a package."""
    info = folder / f"{project['name'].replace('-', '_')}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Name: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {at}" for name, at in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


def try_training(line: str) -> None:
    """Everything of a command but the training."""
    words = shlex.split(line)
    overrides = words[words.index("pft-train") + 1 :]
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose("train", overrides=[*overrides, "paths.run=run"])
    config = check_options(config, Train, trust=config.trust_config)
    for part in ("probe", "adaptation"):
        made = instantiate(config[part], where=part, trust=config.trust_config)
        assert type(made).__qualname__ == config[part]["_target_"].split(".")[-1]
