"""The tutorials do what they say, as a reader types it.

Blocks of a page run in its order, in an empty folder: ``bash`` and ``python``; those
with a title are files. A ``text`` block is what the block before it prints: after
``python`` all of it from its first line on, after commands the lines that are shown, in
their order. Numbers agree to 3 %, as sums in another order leave no more after some
dozens of steps, changes in per cent to 3 of these; ``...`` is any word.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import COMMANDS, own_cache, run_command


PAGES = sorted((Path(__file__).parents[3] / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)
# What a page says to install -> what can be imported then.
EXTRA = re.compile(r'pip install "\.\[([\w,]+)\]"')
MODULES = {"sevennet": "sevenn", "kappa": "phono3py"}
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
TOLERANCE = 0.03


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_says(page, tmp_path, monkeypatch):
    text = page.read_text(encoding="utf-8")
    needs_what_it_says_to_install(text)
    monkeypatch.chdir(tmp_path)
    environment = own_cache(tmp_path / "cache")
    printed, whole, shown = "", False, 0
    for language, title, block in BLOCK.findall(text):
        if title:
            Path(title).parent.mkdir(parents=True, exist_ok=True)
            Path(title).write_text(block, encoding="utf-8")
        elif language == "bash":
            printed, whole = run_lines(block, environment), False
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(block, str(page), "exec"), {"__name__": page.stem})
            printed, whole = output.getvalue(), True
        elif language == "text":
            check_printed(block, printed, whole=whole)
            shown += 1
    assert shown


def needs_what_it_says_to_install(text: str) -> None:
    (extras,) = set(EXTRA.findall(text))
    for extra in extras.split(","):
        module = MODULES.get(extra, extra)
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}, which is not installed here")


def run_lines(block: str, environment: dict[str, str]) -> str:
    """Run commands one after the other; what they print, errors with it."""
    printed = ""
    for line in block.replace("\\\n", " ").splitlines():
        line = line.replace("$PWD", str(Path.cwd()))
        name, *arguments = shlex.split(line, comments=True)
        if name == "pip":
            continue
        # A reader's shell would stay there for the lines that follow.
        assert name != "cd", f"write it as ({line})"
        if name in COMMANDS:
            result = run_command(name, *arguments, environment=environment, merged=True)
        else:
            own = str(Path(sys.executable).parent)
            path = os.pathsep.join([own, os.environ["PATH"]])
            result = subprocess.run(
                ["bash", "-c", line],
                env={**os.environ, **environment, "PATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        assert result.returncode == 0, f"{line}\n{result.stdout}"
        printed += result.stdout
    return printed


def check_printed(shown: str, printed: str, *, whole: bool) -> None:
    found = iter(lines_of(printed))
    begun = False
    for line in lines_of(shown):
        passed = []
        for other in found:
            if agree(line, other):
                break
            # Libraries may speak when they are imported.
            assert not (whole and begun), f"prints {other}\nnot    {line}"
            passed.append(other)
        else:
            raise AssertionError(f"{line}\nis not among\n" + "\n".join(passed))
        begun = True
    assert not whole or next(found, None) is None


def lines_of(text: str) -> list[str]:
    """Lines without the rules of tables, and with single blanks."""
    lines = (" ".join(line.replace("┃", "│").split()) for line in text.splitlines())
    return [line for line in lines if re.search(r"\w", line)]


def agree(shown: str, printed: str) -> bool:
    words, others = shown.split(), printed.split()
    if len(words) != len(others):
        return False
    return all(
        agree_words(word, other, percent=follower == "%")
        for word, other, follower in zip(words, others, [*words[1:], ""], strict=True)
    )


def agree_words(shown: str, printed: str, *, percent: bool) -> bool:
    if shown == "...":
        return True
    if NUMBER.split(shown) != NUMBER.split(printed):
        return False
    limit = {"rel": TOLERANCE, "abs": 100 * TOLERANCE if percent else 0.0}
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(float(a) == pytest.approx(float(b), **limit) for a, b in pairs)


def test_numbers_and_words_that_differ_are_noticed():
    printed = "│ hvp_mae │ 0.150 │ -10.4 % │\nsaved in /tmp/x\n"
    check_printed("│ hvp_mae │ 0.151 │ -10.5 % │", printed, whole=False)
    check_printed("saved in ...", printed, whole=False)
    for wrong in ("hvp_mae │ 0.2", "│ mae │ 0.150 │ -10.4 % │", "saved in ... there"):
        with pytest.raises(AssertionError):
            check_printed(wrong, printed, whole=False)
    check_printed("saved in ...", printed, whole=True)
    with pytest.raises(AssertionError):
        check_printed("│ hvp_mae │ 0.151 │ -10.5 % │", printed, whole=True)
