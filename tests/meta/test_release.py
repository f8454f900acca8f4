"""Version, changelog and tag say the same."""

from __future__ import annotations

import datetime
import re
import subprocess
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parents[2]
HEADING = re.compile(r"^## \[(?P<version>[^]]+)\](?: - (?P<date>\S+))?$", re.M)


def read_version() -> str:
    # Python 3.10 has no reader of TOML.
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'^version = "([^"]+)"$', text, re.M)
    assert match is not None
    return match[1]


def read_headings() -> list[tuple[str, str | None]]:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return [(match["version"], match["date"]) for match in HEADING.finditer(text)]


def test_versions_of_the_changelog_have_dates_and_descend():
    (first, none), *released = read_headings()
    assert (first, none) == ("Unreleased", None)
    assert released
    numbers = [tuple(map(int, version.split("."))) for version, _ in released]
    dates = [datetime.date.fromisoformat(date or "") for _, date in released]
    assert numbers == sorted(set(numbers), reverse=True)
    assert dates == sorted(dates, reverse=True)


def test_the_version_is_the_newest_of_the_changelog_and_the_citation():
    version = read_version()
    assert read_headings()[1][0] == version
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert yaml.safe_load(citation)["version"] == version


def test_a_tag_is_the_version():
    command = ["git", "tag", "--points-at", "HEAD", "--list", "v*"]
    try:
        found = subprocess.run(
            command, cwd=ROOT, check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no clone of the repository")
    tags = found.stdout.split()
    if not tags:
        pytest.skip("this commit has no tag")
    assert tags == [f"v{read_version()}"]
