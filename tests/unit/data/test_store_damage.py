"""Stores that were killed, damaged, cut short or left without disk."""

from __future__ import annotations

import json
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import filelock
import numpy as np
import pytest

from pft_lightning.data.store import PhononStore, build_store, cached_store
from pft_lightning.data.store import building as _store_building
from pft_lightning.data.store.file import read_blocks
from pft_lightning.errors import DataFormatError, StorageError


CUTOFF = 4.0


@pytest.fixture(scope="module")
def sources(tmp_path_factory, spring_phonon) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for file, name in {"a": "simple cubic", "b": "NaCl conventional"}.items():
        spring_phonon(name).save(folder / f"{file}.yaml", settings={"force_sets": True})
    return folder


@pytest.fixture(scope="module")
def whole(sources: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "x.store"
    build_store(sources, out, cutoff=CUTOFF, progress=False)
    return out


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "x.store"))


def data_file(store: Path) -> Path:
    (file,) = store.glob("records.*.dat")
    return file


def rebuild(sources: Path, store: Path):
    return build_store(sources, store, cutoff=CUTOFF, progress=False)


def assert_same(store: Path, other: Path) -> None:
    ours, theirs = PhononStore(store), PhononStore(other)
    assert ours.names == theirs.names
    for index in range(len(theirs)):
        np.testing.assert_array_equal(
            ours.record(index).force_constants.compact,
            theirs.record(index).force_constants.compact,
        )


def read_all(store: Path) -> list[np.ndarray]:
    opened = PhononStore(store)
    return [opened.record(i).force_constants.compact for i in range(len(opened))]


def test_no_flipped_byte_changes_a_number(damaged: Path, whole: Path) -> None:
    good, file = data_file(damaged).read_bytes(), data_file(damaged)
    expected = read_all(whole)
    rng = np.random.default_rng(0)
    errors = []
    for position in rng.integers(len(good), size=60):
        content = bytearray(good)
        content[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
        try:
            read = read_all(damaged)
        except DataFormatError as error:
            errors.append(str(error))
            continue
        # The byte was in what is only needed to go on with a build.
        for ours, theirs in zip(read, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert len(errors) > 50
    assert all(f"{damaged} " in e and "checksum is wrong" in e for e in errors)


def test_building_again_reads_only_the_damaged_structure_anew(
    damaged: Path, whole: Path, sources: Path
) -> None:
    content = bytearray(data_file(damaged).read_bytes())
    content[-100] ^= 255
    data_file(damaged).write_bytes(content)
    report = rebuild(sources, damaged)
    assert (report.n_structures, report.n_read) == (2, 1)
    assert_same(damaged, whole)
    assert rebuild(sources, damaged).n_read == 0


@pytest.mark.parametrize("kept", [0, 3, 0.5, 0.99])
def test_truncated_data_files_are_named_and_mended(
    damaged: Path, whole: Path, sources: Path, kept: float
) -> None:
    content = data_file(damaged).read_bytes()
    n_bytes = kept if isinstance(kept, int) else int(kept * len(content))
    opened = PhononStore(damaged)
    data_file(damaged).write_bytes(content[:n_bytes])
    with pytest.raises(DataFormatError, match=r"records.*\d+ bytes.*truncated"):
        PhononStore(damaged)
    # It was whole when it was opened: an error, not the end of the process.
    with pytest.raises(DataFormatError, match="structure b is damaged"):
        opened.record(1)
    rebuild(sources, damaged)
    assert_same(damaged, whole)


def test_a_cached_store_that_was_truncated_heals_on_use(
    sources: Path, tmp_path: Path, whole: Path
) -> None:
    def cached() -> Path:
        found = cached_store(sources, cutoff=CUTOFF, cache_dir=tmp_path, progress=False)
        return found.path

    path = cached()
    data_file(path).write_bytes(b"")
    assert_same(cached(), whole)
    (path / "index.json").write_text("[1")
    assert_same(cached(), whole)


@pytest.mark.parametrize("kept", [0, 5, 0.3, 0.8, 1.0])
def test_a_first_build_that_was_killed_goes_on(
    damaged: Path, whole: Path, sources: Path, kept: float
) -> None:
    """Whatever part of the data file had reached the disk."""
    (damaged / "index.json").unlink()
    content = data_file(damaged).read_bytes()
    n_bytes = kept if isinstance(kept, int) else int(kept * len(content))
    data_file(damaged).write_bytes(content[:n_bytes])
    n_whole = len(read_blocks(data_file(damaged))[0])
    report = rebuild(sources, damaged)
    assert report.n_read == 2 - n_whole
    assert_same(damaged, whole)


def change(content: dict) -> None:
    content["entries"][0]["n_atoms"] = 7


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "an empty index": ("index.json", lambda file: file.write_text("")),
    "an index that is a list": ("index.json", lambda file: file.write_text("[1, 2]")),
    "an index without entries": ("index.json", lambda file: file.write_text("{}")),
    "half an index": (
        "index.json",
        lambda file: file.write_bytes(file.read_bytes()[:100]),
    ),
    "wrong n_atoms": ("index.json", lambda file: edit(file, change)),
    "no data file": ("records.0001.dat", lambda file: file.unlink()),
    "no cutoff": ("store.json", lambda file: edit(file, lambda c: c.pop("cutoff"))),
    "another cutoff": (
        "store.json",
        lambda file: edit(file, lambda c: c.update(cutoff=9.0)),
    ),
    "a cutoff of text": (
        "store.json",
        lambda file: edit(file, lambda c: c.update(cutoff="x")),
    ),
    "a header that is a list": ("store.json", lambda file: file.write_text("[]")),
    "an empty header": ("store.json", lambda file: file.write_text("")),
}


def edit(file: Path, function: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    function(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_headers_and_indices_are_named_and_mended(
    damaged: Path, whole: Path, sources: Path, damage: str
) -> None:
    name, function = DAMAGES[damage]
    function(damaged / name)
    with pytest.raises(DataFormatError) as caught:
        PhononStore(damaged)
    assert str(damaged / name) in str(caught.value)
    assert "pft-prepare" in str(caught.value)
    rebuild(sources, damaged)
    assert_same(damaged, whole)


def test_a_full_disk_is_named_and_what_was_read_is_kept(
    sources: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "x.store"
    (_, size, _), _ = (e["place"] for e in read_blocks(data_file(whole))[0].values())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for the first structure and a part of the second one.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 3000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"records.*cannot be written.*room"):
            rebuild(sources, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(DataFormatError, match="not finished"):
        PhononStore(out)
    assert rebuild(sources, out).n_read == 1
    assert_same(out, whole)


def test_stores_of_earlier_versions_are_built_again(
    damaged: Path, whole: Path, sources: Path
) -> None:
    edit(damaged / "store.json", lambda content: content.update(format_version=2))
    data_file(damaged).rename(damaged / "records.0001.lmdb")
    with pytest.raises(DataFormatError, match=r"format version 2.*pft-prepare"):
        PhononStore(damaged)
    assert rebuild(sources, damaged).n_read == 2
    assert_same(damaged, whole)
    assert not list(damaged.glob("*.lmdb"))


def test_one_process_builds_a_store_and_others_wait_or_are_told(
    sources: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "x.store"
    out.mkdir()
    built = []

    def build() -> None:
        built.append(
            build_store(sources, out, cutoff=CUTOFF, progress=False, wait=True)
        )

    with filelock.FileLock(out / "build.lock"):
        with pytest.raises(StorageError, match="another process builds this store"):
            rebuild(sources, out)
        waiting = threading.Thread(target=build)
        waiting.start()
        waiting.join(0.2)
        assert not built
    waiting.join(60)
    assert built[0].n_read == 2
    assert_same(out, whole)


def test_finished_stores_are_used_without_writing(
    whole: Path, sources: Path, monkeypatch
) -> None:
    monkeypatch.delattr(_store_building, "locked")
    monkeypatch.delattr(_store_building, "make_folder")
    assert rebuild(sources, whole).n_structures == 2


def test_a_folder_that_cannot_be_made_is_named(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/x\.store: cannot be written.*folder"):
        rebuild(sources, tmp_path / "file" / "x.store")
