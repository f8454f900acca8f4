from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from phonopy import Phonopy

from pft_lightning import keys
from pft_lightning.data.readers import read_phonon
from pft_lightning.data.store import PhononStore, build_store, cached_store
from pft_lightning.data.store import building as _store_building
from pft_lightning.data.store.file import read_blocks
from pft_lightning.data.store.format import encode
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.graphs import build_graph


CUTOFF = 4.0


def save(phonon: Phonopy, path: Path) -> None:
    phonon.save(path, settings={"force_sets": True})


@pytest.fixture
def sources(tmp_path: Path, spring_phonon) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    for name, file in (
        ("NaCl conventional", "b"),
        ("simple cubic", "a"),
        ("bcc, oblique", "c"),
    ):
        save(spring_phonon(name), folder / f"{file}.yaml")
    return folder


@pytest.fixture
def store(sources: Path, tmp_path: Path) -> PhononStore:
    build_store(sources, tmp_path / "x.store", cutoff=CUTOFF, progress=False)
    return PhononStore(tmp_path / "x.store")


def test_records_come_back_as_read(store: PhononStore, sources: Path) -> None:
    assert store.names == ["a", "b", "c"]
    assert store.cutoff == CUTOFF
    assert store.atomic_numbers == {11, 17, 26}
    for index, name in enumerate(store.names):
        ours, read = store.record(index), read_phonon(sources / f"{name}.yaml")
        for field in ("atomic_numbers", "positions", "cell", "pbc", "forces", "stress"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(read, field))
        assert (ours.name, ours.energy) == (read.name, read.energy)
        assert ours.info == read.info
        for field in (
            "compact",
            "primitive_index",
            "translation_index",
            "permutations",
            "equivalent_atoms",
        ):
            np.testing.assert_array_equal(
                getattr(ours.force_constants, field),
                getattr(read.force_constants, field),
            )
        assert store.n_atoms[index] == read.n_atoms


def test_graphs_are_those_built_anew(store: PhononStore) -> None:
    for index in range(len(store)):
        record, data = store.record(index), store.data(index)
        graph = build_graph(record.positions, record.cell, record.pbc, CUTOFF)
        assert data[keys.EDGE_INDEX].tolist() == graph.edge_index.tolist()
        assert data[keys.EDGE_SHIFTS].tolist() == graph.edge_shifts.tolist()
        assert store.n_edges[index] == graph.n_edges
        assert data[keys.EDGE_INDEX].dtype == torch.int64
        assert data[keys.NAME] == store.names[index]
        assert data[keys.FORCE_CONSTANTS].n_atoms == record.n_atoms


def test_shorter_cutoffs_shorten_the_graphs(store: PhononStore) -> None:
    store.require_cutoff(3.0)
    assert store.cutoff == 3.0
    record, data = store.record(1), store.data(1)
    graph = build_graph(record.positions, record.cell, record.pbc, 3.0)
    ours = {tuple(edge) for edge in edges(data).tolist()}
    expected = np.concatenate([graph.edge_index.T, graph.edge_shifts], axis=1)
    assert ours == {tuple(edge) for edge in expected.tolist()}
    store.require_cutoff(CUTOFF)
    assert store.data(1)[keys.EDGE_INDEX].shape[1] == store.n_edges[1]


def edges(data) -> torch.Tensor:
    return torch.cat([data[keys.EDGE_INDEX].T, data[keys.EDGE_SHIFTS]], dim=1)


def test_longer_cutoffs_are_refused(store: PhononStore, tmp_path: Path) -> None:
    message = r"reach 4 Å.*cutoff is 5\.5 Å.*pft-prepare .*cutoff=5\.5"
    with pytest.raises(DataFormatError, match=message):
        store.require_cutoff(5.5)
    with pytest.raises(DataFormatError, match=message):
        cached_store(store.path, cutoff=5.5, cache_dir=tmp_path)
    store.require_cutoff(float(np.float32(CUTOFF)) * (1 + 1e-7))


def test_select_and_subset(store: PhononStore) -> None:
    kept, dropped = store.select([11, 17, 8])
    assert (kept.names, dropped) == (["b"], ["a", "c"])
    assert kept.record(0).name == "b"
    assert kept.n_atoms.tolist() == [16]
    assert store.subset([2, 0]).names == ["c", "a"]
    assert store.subset([2, 0]).data(1)[keys.NAME] == "a"
    assert len(store) == 3


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_it(store: PhononStore, method: str) -> None:
    expected = store.record(1).force_constants.compact
    with multiprocessing.get_context(method).Pool(1) as pool:
        read = pool.apply_async(store.record, (1,)).get(timeout=120)
    np.testing.assert_array_equal(read.force_constants.compact, expected)
    # The parent goes on reading after its child is gone.
    again = store.record(1).force_constants.compact
    np.testing.assert_array_equal(again, expected)


def test_pickles_small(store: PhononStore) -> None:
    store.data(0)
    pickled = pickle.dumps(store)
    assert len(pickled) < 5000
    assert pickle.loads(pickled).record(2).name == "c"


# ASE's LMDB class complains when it is deleted after it failed to open a file.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_bad_file_is_skipped_and_named(sources: Path, tmp_path: Path) -> None:
    (sources / "bad.yaml").write_bytes((sources / "b.yaml").read_bytes()[:-800])
    (sources / "worse.aselmdb").write_bytes(b"x")
    report = build_store(sources, tmp_path / "x.store", cutoff=CUTOFF, progress=False)
    assert report.n_structures == report.n_read == 3
    assert sorted(Path(source).name for source, _ in report.skipped) == [
        "bad.yaml",
        "worse.aselmdb",
    ]
    assert all(source in reason for source, reason in report.skipped)
    assert "2 skipped:" in report.summary()
    assert "bad.yaml" in report.summary()
    stored = PhononStore(tmp_path / "x.store").report
    assert stored == report


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    for index in range(7):
        (tmp_path / f"{index}.yaml").write_text("a: 1\n")
    with pytest.raises(DataFormatError, match=r"none of 7[\s\S]*0\.yaml[\s\S]*2 more"):
        build_store(tmp_path, tmp_path / "x.store", cutoff=CUTOFF, progress=False)
    with pytest.raises(DataFormatError, match="not finished"):
        PhononStore(tmp_path / "x.store")


def test_same_names_are_told_apart(sources: Path, tmp_path: Path) -> None:
    (sources / "other").mkdir()
    (sources / "other" / "a.yaml").write_bytes((sources / "b.yaml").read_bytes())
    build_store(sources, tmp_path / "x.store", cutoff=CUTOFF, progress=False)
    store = PhononStore(tmp_path / "x.store")
    assert store.names == ["a", "b", "c", "a (2)"]
    assert store.data(3)[keys.NAME] == "a (2)"


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    original = _store_building.read_entry

    def counting(path, entry, options):
        read.append(path.name)
        return original(path, entry, options)

    monkeypatch.setattr(_store_building, "read_entry", counting)
    return read


def test_only_what_changed_is_read_again(
    sources: Path, tmp_path: Path, spring_phonon, monkeypatch
) -> None:
    def cached() -> PhononStore:
        return cached_store(
            sources, cutoff=CUTOFF, cache_dir=tmp_path / "cache", progress=False
        )

    read = count_reads(monkeypatch)
    first = cached()
    assert read == ["a.yaml", "b.yaml", "c.yaml"]
    read.clear()
    assert cached().path == first.path
    assert read == []
    save(spring_phonon("one cell"), sources / "b.yaml")
    (sources / "c.yaml").unlink()
    save(spring_phonon("hexagonal"), sources / "d.yaml")
    second = cached()
    assert read == ["b.yaml", "d.yaml"]
    assert second.names == ["a", "b", "d"]
    assert second.n_atoms.tolist() == [8, 3, 16]
    assert second.record(1).n_atoms == 3
    # A run that had the store open goes on with what it had.
    assert first.record(1).n_atoms == 16
    assert first.record(2).name == "c"


def test_other_options_or_cutoffs_start_anew(
    sources: Path, tmp_path: Path, monkeypatch
) -> None:
    read, out = count_reads(monkeypatch), tmp_path / "x.store"
    build_store(sources, out, cutoff=CUTOFF, progress=False)
    build_store(sources, out, cutoff=5.0, progress=False)
    build_store(sources, out, cutoff=5.0, progress=False, relaxed="none")
    assert len(read) == 9
    assert PhononStore(out).cutoff == 5.0
    assert PhononStore(out).record(0).forces is None
    with pytest.raises(ConfigError, match="cutoff=0"):
        build_store(sources, out, cutoff=0, progress=False)


def test_stores_are_sources(store: PhononStore, sources: Path, tmp_path: Path) -> None:
    assert cached_store(store.path, cutoff=3.0, cache_dir=tmp_path).path == store.path
    (sources / "more").mkdir()
    extra = (sources / "a.yaml").rename(sources / "more" / "z.yaml")
    both = cached_store(
        [store.path, extra], cutoff=5.0, cache_dir=tmp_path, progress=False
    )
    assert both.names == ["a", "b", "c", "z"]
    assert both.cutoff == 5.0
    assert both.n_edges[1] > store.n_edges[1]


def test_options_that_a_store_was_not_made_with_are_refused(
    store: PhononStore, tmp_path: Path
) -> None:
    """They would have no effect on what was read before."""
    where = {"cutoff": CUTOFF, "cache_dir": tmp_path, "progress": False}
    with pytest.raises(ConfigError, match=r"options\.relaxed.* made with full"):
        cached_store(store.path, **where, relaxed="positions")
    build_store(
        tmp_path / "sources",
        tmp_path / "y.store",
        cutoff=CUTOFF,
        progress=False,
        relaxed="positions",
    )
    for given in ({}, {"relaxed": "positions"}):
        assert len(cached_store(tmp_path / "y.store", **where, **given)) == 3


def test_foreign_directories_are_left_alone(sources: Path) -> None:
    with pytest.raises(ConfigError, match="not a store"):
        build_store(sources, sources, cutoff=CUTOFF, progress=False)
    with pytest.raises(DataFormatError, match=r"not a store.*pft-prepare"):
        PhononStore(sources)


def test_damaged_and_foreign_versions(store: PhononStore) -> None:
    header = store.path / "store.json"
    content = json.loads(header.read_text())
    header.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(DataFormatError, match="format version 99"):
        PhononStore(store.path)
    header.write_text(json.dumps(content))
    (store.path / "index.json").write_text("{")
    with pytest.raises(DataFormatError, match="damaged"):
        PhononStore(store.path)


SLOW_BUILD = """
import sys, time
from pft_lightning.data.store import building

original = building.read_entry
def slow(path, entry, options):
    time.sleep(0.15)
    return original(path, entry, options)

building.read_entry = slow
building._SECONDS_PER_COMMIT = 0.1
building.build_store(sys.argv[1], sys.argv[2], cutoff=4.0, progress=False)
"""


@pytest.mark.slow
def test_a_killed_build_goes_on_where_it_stopped(
    sources: Path, tmp_path: Path, monkeypatch
) -> None:
    text = (sources / "a.yaml").read_bytes()
    for index in range(30):
        (sources / f"k{index:02d}.yaml").write_bytes(text)
    out = tmp_path / "x.store"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SLOW_BUILD, str(sources), str(out)]
    build = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + 120
        while n_done(out) < 5:
            assert time.monotonic() < deadline, "nothing was written in time"
            assert build.poll() is None, "the build ended before it was killed"
            time.sleep(0.05)
    finally:
        build.send_signal(signal.SIGKILL)
        build.wait()
    with pytest.raises(DataFormatError, match="not finished"):
        PhononStore(out)
    read = count_reads(monkeypatch)
    report = build_store(sources, out, cutoff=CUTOFF, progress=False)
    assert report.n_structures == 33
    assert 0 < len(read) <= 28
    assert report.n_read == len(read)
    whole = tmp_path / "whole.store"
    build_store(sources, whole, cutoff=CUTOFF, progress=False)
    resumed, expected = PhononStore(out), PhononStore(whole)
    assert resumed.names == expected.names
    for index in range(len(expected)):
        assert raw(resumed, index) == raw(expected, index)


def n_done(out: Path) -> int:
    files = list(out.glob("records.*.dat"))
    return len(read_blocks(files[0])[0]) if files else 0


def raw(store: PhononStore, index: int) -> bytes:
    return store._reader.get(store._places[index], store.names[index])


def test_interrupted_update_keeps_the_finished_store(
    store: PhononStore, sources: Path, spring_phonon, monkeypatch
) -> None:
    save(spring_phonon("one cell"), sources / "d.yaml")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_store_building, "read_entry", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_store(sources, store.path, cutoff=CUTOFF, progress=False)
    assert PhononStore(store.path).names == ["a", "b", "c"]
    assert PhononStore(store.path).record(1).name == "b"
    read = count_reads(monkeypatch)
    report = build_store(sources, store.path, cutoff=CUTOFF, progress=False)
    assert (report.n_structures, read) == (4, ["d.yaml"])
    assert len(list(store.path.glob("records.*.dat"))) == 1


@pytest.mark.slow
def test_parallel_reading_gives_the_same(sources: Path, tmp_path: Path) -> None:
    build_store(sources, tmp_path / "1.store", cutoff=CUTOFF, progress=False)
    build_store(
        sources, tmp_path / "2.store", cutoff=CUTOFF, progress=False, n_workers=2
    )
    one, two = PhononStore(tmp_path / "1.store"), PhononStore(tmp_path / "2.store")
    assert one.names == two.names
    for index in range(len(one)):
        assert raw(one, index) == raw(two, index)


def test_size_on_disk_is_that_of_the_numbers(sources: Path) -> None:
    record = read_phonon(sources / "b.yaml")
    graph = build_graph(record.positions, record.cell, record.pbc, CUTOFF)
    arrays = record.force_constants.compact.nbytes + 7 * graph.n_edges
    assert len(encode(record, graph)) < arrays + 5000


def test_several_stores_can_be_updated_by_one_process(tmp_path, spring_phonon):
    """Deleting the old file of one store must not block the next one."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        save(spring_phonon("simple cubic"), folder / "crystal.yaml")
    for update in range(3):
        for folder in folders:
            os.utime(folder / "crystal.yaml", (1e9 + update, 1e9 + update))
            store = cached_store(
                folder, cutoff=3.0, cache_dir=tmp_path / "cache", progress=False
            )
            assert store.record(0).force_constants is not None
