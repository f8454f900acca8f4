"""The tutorials do what they say, as a reader types it."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from commands import own_cache, run_command


pytest.importorskip("mace", reason="the example's base model is a MACE model")

PAGES = sorted((Path(__file__).parents[3] / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = own_cache(tmp_path / "cache")
    printed = ""
    languages = []
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        languages.append(language)
        if language == "bash":
            command, *arguments = shlex.split(text.replace("\\\n", " "))
            result = run_command(
                command, *arguments, cwd=tmp_path, environment=environment
            )
            assert result.returncode == 0, result.stderr
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(text, str(page), "exec"), {})
            printed = output.getvalue()
        elif language == "text":
            assert printed == text
    assert {"bash", "python", "text"} <= set(languages)
