from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from pft_lightning.data.sources import Sources, find_sources
from pft_lightning.errors import ConfigError, DataFormatError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.yaml",
        "a.yaml.xz",
        "deep/er/c.yaml.bz2",
        "deep/band.yaml",
        "mp-1/FORCE_SETS",
        "mp-1/phonopy_disp.yaml",
        "made.store/store.json",
        "made.store/index.json",
        "d.aselmdb",
        "frames.xyz.gz",
        "rows.db",
        ".hidden/e.yaml",
        "notes.txt",
        "mp-2/phonopy_disp.yaml",
        "mp-2/phonopy_params.yaml.xz",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(found: Sources, tree: Path) -> list[str]:
    assert not found.skipped
    return [str(path.relative_to(tree)) for path in found.paths]


def test_folder(tree: Path) -> None:
    assert names(find_sources(tree), tree) == [
        "a.yaml.xz",
        "b.yaml",
        "d.aselmdb",
        "deep/er/c.yaml.bz2",
        "made.store",
        "mp-1",
        "mp-2/phonopy_params.yaml.xz",
    ]
    assert names(find_sources(tree, kind="upstream"), tree) == [
        "d.aselmdb",
        "frames.xyz.gz",
        "rows.db",
    ]


def test_file_glob_store_and_lists(tree: Path) -> None:
    assert names(find_sources(tree / "b.yaml"), tree) == ["b.yaml"]
    assert names(find_sources(str(tree / "*.yaml*")), tree) == ["a.yaml.xz", "b.yaml"]
    assert names(find_sources(f"{tree}/**/*.bz2"), tree) == ["deep/er/c.yaml.bz2"]
    assert names(find_sources(tree / "made.store"), tree) == ["made.store"]
    listed = [tree / "mp-1", str(tree / "b.yaml"), tree / "b.yaml"]
    assert names(find_sources(listed), tree) == ["mp-1", "b.yaml"]


def test_nothing_found_is_an_error(tree: Path) -> None:
    with pytest.raises(DataFormatError, match="empty: no phonons data in it; expected"):
        find_sources(tree / "empty")
    with pytest.raises(DataFormatError, match="matches nothing"):
        find_sources(str(tree / "*.cif"))
    with pytest.raises(DataFormatError, match="no such file"):
        find_sources(tree / "absent")
    with pytest.raises(ConfigError, match="no source"):
        find_sources([])


def skips(found: Sources) -> dict[str, str]:
    assert len({place for place, _ in found.skipped}) == len(found.skipped)
    return {Path(place).name: reason for place, reason in found.skipped}


def test_what_cannot_be_read_is_skipped_and_named(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("content")
    (tmp_path / "empty.yaml").touch()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "broken.yaml").symlink_to(tmp_path / "gone.yaml")
    (tmp_path / "itself.yaml").symlink_to("itself.yaml")
    (tmp_path / "with_pipe").mkdir()
    (tmp_path / "with_pipe" / "FORCE_SETS").write_text("content")
    os.mkfifo(tmp_path / "with_pipe" / "POSCAR")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.yaml"))
        found = find_sources(tmp_path)
    assert found.paths == [tmp_path / "good.yaml"]
    reasons = skips(found)
    assert "is empty" in reasons["empty.yaml"]
    assert "is a named pipe" in reasons["pipe.yaml"]
    assert "is a socket" in reasons["socket.yaml"]
    assert "POSCAR: is a named pipe" in reasons["with_pipe"]
    assert re.search("a link to .*gone.yaml, which does not", reasons["broken.yaml"])
    assert "cannot be read (Too many levels" in reasons["itself.yaml"]
    assert len(reasons) == 6


def test_sources_none_of_which_can_be_read_are_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.xyz")
    (tmp_path / "empty.xyz").touch()
    for spec in (tmp_path, [tmp_path / "empty.xyz", tmp_path / "pipe.xyz"]):
        with pytest.raises(DataFormatError, match=r"none of 2 .*\n.*empty.*\n.*pipe"):
            find_sources(spec, kind="upstream")


@pytest.mark.parametrize("function", ["scandir", "listdir"])
def test_a_folder_without_permission_is_skipped_and_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    allowed = getattr(os, function)

    def ask(path: Path) -> object:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return allowed(path)

    monkeypatch.setattr(os, function, ask)
    found = find_sources(tree)
    assert len(found.paths) == 6
    assert "deep: cannot be read (Permission denied)" in skips(found)["deep"]


def test_a_source_counts_once_through_all_links_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "x.yaml").write_text("content")
    (folder / "again.yaml").symlink_to(folder / "a" / "x.yaml")
    os.link(folder / "a" / "x.yaml", folder / "hard.yaml")
    (folder / "b").symlink_to(folder / "a")
    (folder / "loop").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    found = find_sources(folder)
    assert found.paths == [folder / "a" / "x.yaml"]
    reasons = skips(found)
    assert sorted(reasons) == ["again.yaml", "b", "hard.yaml", "loop", "up"]
    assert f"the same as {folder / 'a' / 'x.yaml'}" in reasons["again.yaml"]
    assert "a link back to where it lies" in reasons["loop"]
    # What a pattern or a list names twice is no copy.
    twice = find_sources([f"{folder}/*/*.yaml", folder / "a", folder / "a" / "x.yaml"])
    assert names(Sources(twice.paths, []), folder) == ["a/x.yaml"]


def test_names_that_are_not_utf_8_are_skipped_and_printed(tmp_path: Path) -> None:
    strange = os.fsencode(tmp_path) + b"/caf\xe9.yaml"
    Path(os.fsdecode(strange)).write_text("content")
    (tmp_path / "Gr\u00f6\u00dfe.yaml").write_text("content")
    found = find_sources(tmp_path)
    assert [path.name for path in found.paths] == ["Gr\u00f6\u00dfe.yaml"]
    ((place, reason),) = found.skipped
    assert place.endswith("caf\\xe9.yaml")
    assert "not UTF-8" in reason
    reason.encode()
    with pytest.raises(DataFormatError, match="not UTF-8"):
        find_sources(os.fsdecode(strange))
