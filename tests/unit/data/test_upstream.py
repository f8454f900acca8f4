from __future__ import annotations

import lzma
import multiprocessing
import pickle
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pft_lightning import keys
from pft_lightning.data import upstream
from pft_lightning.data.readers import list_entries
from pft_lightning.data.upstream import UpstreamFrames
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.graphs import build_graph


CUTOFF = 4.0


def frame(seed: int = 0, *, stress: bool = True, symbol: str = "Cu") -> Atoms:
    atoms = bulk(symbol, "fcc", a=4.0, cubic=True)
    atoms.rattle(0.05, seed=seed)
    generator = np.random.default_rng(seed)
    results = {
        "energy": generator.normal(),
        "forces": generator.standard_normal((4, 3)),
    }
    if stress:
        results["stress"] = generator.standard_normal(6)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


FRAMES = [frame(seed) for seed in range(3)]


def check(frames: UpstreamFrames, expected: list[Atoms]) -> None:
    assert len(frames) == len(expected)
    assert frames.n_atoms.tolist() == [len(atoms) for atoms in expected]
    for index, atoms in enumerate(expected):
        record, data = frames.record(index), frames.data(index)
        assert record.energy == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(record.forces, atoms.get_forces(), atol=1e-7)
        np.testing.assert_allclose(
            record.stress, atoms.get_stress(voigt=False), atol=1e-7
        )
        graph = build_graph(record.positions, record.cell, record.pbc, CUTOFF)
        assert data[keys.EDGE_INDEX].tolist() == graph.edge_index.tolist()
        assert frames.n_edges[index] == graph.n_edges
        assert data[keys.STRESS_MASK].tolist() == [True]
        assert keys.FORCE_CONSTANTS not in data


@pytest.mark.parametrize("suffix", [".xyz", ".xyz.xz", ".extxyz.gz", ".xyz.bz2"])
def test_extended_xyz(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"frames{suffix}"
    ase.io.write(path, FRAMES, format="extxyz")
    frames = UpstreamFrames(path, CUTOFF)
    check(frames, FRAMES)
    assert frames.names == ["frames/0", "frames/1", "frames/2"]
    assert frames.elements == [(29,)] * 3


@pytest.mark.parametrize("suffix", [".db", ".json", ".aselmdb"])
def test_databases(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    with ase.db.connect(path) as database:
        for atoms in FRAMES:
            database.write(atoms)
    frames = UpstreamFrames(path, CUTOFF)
    check(frames, FRAMES)
    assert frames.names == ["rows/1", "rows/2", "rows/3"]
    assert pickle.loads(pickle.dumps(frames)).record(2).energy is not None
    with multiprocessing.get_context("fork").Pool(1) as pool:
        record = pool.apply_async(frames.record, (1,)).get(timeout=60)
    assert record.energy == frames.record(1).energy


def rename(
    atoms: Atoms, energy: str = "", forces: str = "", stress: str = "", sign: float = 1
) -> Atoms:
    bare = Atoms(atoms)
    bare.calc = None
    if energy:
        bare.info[energy] = atoms.get_potential_energy()
    if forces:
        bare.arrays[forces] = atoms.get_forces()
    if stress:
        bare.info[stress] = sign * atoms.get_stress(voigt=False)
    return bare


def test_usual_names(tmp_path: Path) -> None:
    path = tmp_path / "mace.xyz"
    renamed = [rename(a, "REF_energy", "REF_forces", "REF_stress") for a in FRAMES]
    ase.io.write(path, renamed, format="extxyz")
    check(UpstreamFrames(path, CUTOFF), FRAMES)


def test_virials_become_a_stress(tmp_path: Path) -> None:
    path = tmp_path / "virial.xyz"
    volume = FRAMES[0].get_volume()
    renamed = [
        rename(a, "REF_energy", "REF_forces", "REF_virials", sign=-volume)
        for a in FRAMES
    ]
    ase.io.write(path, renamed, format="extxyz")
    check(UpstreamFrames(path, CUTOFF), FRAMES)


def test_given_names(tmp_path: Path) -> None:
    path = tmp_path / "own.xyz"
    renamed = [rename(a, "E_pbe", "F_pbe", "S_pbe") for a in FRAMES]
    ase.io.write(path, renamed, format="extxyz")
    names = {keys.ENERGY: "E_pbe", keys.FORCES: "F_pbe", keys.STRESS: "S_pbe"}
    check(UpstreamFrames(path, CUTOFF, names), FRAMES)
    with pytest.raises(DataFormatError, match=r"holds .*E_pbe.*energy_key"):
        UpstreamFrames(path, CUTOFF)
    with pytest.raises(DataFormatError, match=r"no frame has energy .*'E_scan'"):
        UpstreamFrames(path, CUTOFF, {keys.ENERGY: "E_scan"})
    with pytest.raises(ConfigError, match="accepted targets"):
        UpstreamFrames(path, CUTOFF, {"virial": "x"})


def test_frames_without_stress_are_masked_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "frames.xyz"
    ase.io.write(path, [frame(0), frame(1, stress=False)], format="extxyz")
    frames = UpstreamFrames(path, CUTOFF)
    assert frames.counts() == {"energy": 2, "forces": 2, "stress": 1}
    assert frames.data(1)[keys.STRESS_MASK].tolist() == [False]
    assert frames.data(1)[keys.FORCES_MASK].tolist() == [True]
    none = frames.subset([1])
    assert "stress: 0 of 1 frames, its loss weight has no effect" in none.summary()


def test_molecules_have_no_stress(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, stress=np.zeros(6))
    path = tmp_path / "water.xyz"
    ase.io.write(path, atoms, format="extxyz")
    frames = UpstreamFrames(path, CUTOFF)
    assert frames.known.tolist() == [[True, False, False]]
    assert frames.data(0)[keys.PBC].tolist() == [[False] * 3]


def test_bad_frames_are_left_out_and_named(tmp_path: Path) -> None:
    bad = [frame(seed) for seed in range(4)]
    bad[1].calc.results["forces"][2, 1] = np.nan
    bad[2].calc.results["forces"][0, 0] = 1e6
    bad[3].positions[1] = bad[3].positions[0] + 0.01
    path = tmp_path / "frames.xyz"
    ase.io.write(path, bad, format="extxyz")
    frames = UpstreamFrames(path, CUTOFF)
    assert frames.names == ["frames/0"]
    reasons = dict(frames.skipped)
    assert sorted(reasons) == ["frames/1", "frames/2", "frames/3"]
    assert "frame 1: forces[2, 1] is nan" in reasons["frames/1"]
    assert "1e+06 eV/Å" in reasons["frames/2"]
    assert "Å apart" in reasons["frames/3"]
    assert "3 skipped:" in frames.summary()
    ase.io.write(path, bad[1:], format="extxyz")
    with pytest.raises(DataFormatError, match=r"none of 3 frames.*[\s\S]*is nan"):
        UpstreamFrames(path, CUTOFF)


def test_truncated_files(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.xyz", tmp_path / "bad.xyz.xz"
    ase.io.write(good, FRAMES, format="extxyz")
    bad.write_bytes(lzma.compress(good.read_bytes())[:-40])
    with pytest.raises(DataFormatError, match=r"bad\.xyz\.xz.*again"):
        UpstreamFrames(bad, CUTOFF)
    frames = UpstreamFrames([bad, good], CUTOFF)
    check(frames, FRAMES)
    assert [source for source, _ in frames.skipped] == [str(bad)]
    # Nothing read of a damaged archive can be trusted; of a plain file what is whole.
    good.write_bytes(good.read_bytes()[:-150])
    frames = UpstreamFrames(good, CUTOFF)
    check(frames, FRAMES[:2])
    ((_, reason),) = frames.skipped
    assert "good.xyz, frame 2: its first line claims 4 atoms, 3 follow" in reason


def test_files_of_the_same_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        ase.io.write(tmp_path / folder / "x.xyz", FRAMES[:1], format="extxyz")
    names = UpstreamFrames(tmp_path, CUTOFF).names
    assert len(set(names)) == 2


def test_select_by_element(tmp_path: Path) -> None:
    path = tmp_path / "frames.xyz"
    ase.io.write(path, [frame(0), frame(1, symbol="Ag"), frame(2)], format="extxyz")
    frames = UpstreamFrames(path, CUTOFF)
    kept, dropped = frames.select({29, 1})
    assert (len(kept), dropped) == (2, ["frames/1"])
    assert kept.atomic_numbers == {29}
    assert frames.atomic_numbers == {29, 47}
    assert kept.record(1).energy == frames.record(2).energy
    assert kept.n_edges.tolist() == frames.n_edges[[0, 2]].tolist()


def test_real_frames(shared_data: Path) -> None:
    frames = UpstreamFrames(shared_data / "efs" / "mptrj-val.xyz.xz", CUTOFF)
    assert len(frames) == 100
    assert frames.counts() == dict.fromkeys(["energy", "forces", "stress"], 100)
    assert not frames.skipped


def test_frames_with_forces_only(tmp_path: Path) -> None:
    """As displaced supercells of phonon calculations: energy and stress are masked."""
    atoms = frame()
    forces = atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, forces=forces)
    ase.io.write(tmp_path / "displaced.xyz", [atoms], format="extxyz")
    frames = UpstreamFrames(tmp_path / "displaced.xyz", CUTOFF)
    assert frames.known.tolist() == [[False, True, False]]
    data = frames.data(0)
    assert not data[keys.ENERGY_MASK].any()
    assert not data[keys.STRESS_MASK].any()
    assert data[keys.FORCES_MASK].all()
    # Extended XYZ has eight decimals.
    np.testing.assert_allclose(data[keys.FORCES].numpy(), forces, atol=1e-8)


def test_a_bad_row_of_a_database_is_named_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.db"
    with ase.db.connect(path) as database:
        for atoms in FRAMES:
            database.write(atoms)
    whole = upstream.get_row

    def damaged(path: Path, row_id: int) -> object:
        if row_id == 2:
            raise DataFormatError("row 2: damaged")
        return whole(path, row_id)

    monkeypatch.setattr(upstream, "get_row", damaged)
    frames = UpstreamFrames(path, CUTOFF)
    assert frames.names == ["rows/1", "rows/3"]
    assert frames.skipped == [("rows/2", "row 2: damaged")]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_database_that_ends_early_is_refused_before_it_kills_the_process(
    tmp_path: Path, share: float
) -> None:
    """LMDB maps files into memory: what is missing would be a SIGBUS."""
    path = tmp_path / "rows.aselmdb"
    with ase.db.connect(path) as database:
        for atoms in FRAMES * 5:
            database.write(atoms)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataFormatError, match=r"ends early|no LMDB"):
        UpstreamFrames(path, CUTOFF)
    with pytest.raises(DataFormatError, match=r"ends early|no LMDB"):
        list_entries(path)
