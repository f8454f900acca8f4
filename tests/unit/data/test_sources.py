from __future__ import annotations

from pathlib import Path

import pytest

from pft_lightning.data.sources import find_sources
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
        path.touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(paths: list[Path], tree: Path) -> list[str]:
    return [str(path.relative_to(tree)) for path in paths]


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
