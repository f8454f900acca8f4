"""Labels of upstream frames: what counts, what is refused, what ends nothing."""

from __future__ import annotations

import gzip
import lzma
import re
from pathlib import Path

import numpy as np
import pytest

from pft_lightning import keys
from pft_lightning.data import upstream
from pft_lightning.data.readers import xyz
from pft_lightning.data.upstream import UpstreamFrames
from pft_lightning.errors import DataFormatError


CUTOFF = 4.0

SILICON = (
    'Lattice="0 2.7 2.7 2.7 0 2.7 2.7 2.7 0" '
    "Properties=species:S:1:pos:R:3:{forces}:R:3 {rest}\n"
    "Si 0 0 0 0.1 0.2 0.3\nSi 1.35 1.35 1.36 -0.1 -0.2 -0.3\n"
)


def silicon(rest: str, forces: str = "REF_forces") -> str:
    return "2\n" + SILICON.format(forces=forces, rest=rest)


def read(tmp_path: Path, *texts: str, **settings: float) -> UpstreamFrames:
    path = tmp_path / "x.xyz"
    path.write_text("".join(texts))
    return UpstreamFrames(path, CUTOFF, **settings)


GOOD = silicon("REF_energy=-10.5")


def test_weights_of_frames_and_targets_are_those_of_mace(tmp_path: Path) -> None:
    stress = 'REF_stress="1 0 0 0 2 0 0 0 3" '
    frames = read(
        tmp_path,
        silicon(f"REF_energy=-10 {stress} config_weight=0.5 config_forces_weight=3"),
        silicon(f"REF_energy=0 {stress} config_energy_weight=0 config_stress_weight=0"),
        silicon(
            'REF_energy=-9 REF_virials="1 0 0 0 2 0 0 0 3" config_virials_weight=4'
        ),
        silicon(f"REF_energy=0 {stress} config_weight=0"),
        silicon(f"REF_energy=-8 {stress} config_weight=-1"),
        silicon(f"REF_energy=-8 {stress} config_energy_weight=nan"),
    )
    weights = [frames.data(i)[keys.WEIGHTS].tolist() for i in range(3)]
    assert weights == [[[0.5, 1.5, 0.5]], [[0, 1, 0]], [[1, 1, 4]]]
    assert frames.known.tolist() == [[True] * 3, [False, True, False], [True] * 3]
    reasons = dict(frames.skipped)
    assert "its weights are 0" in reasons["x/3"]
    assert "config_weight is -1" in reasons["x/4"]
    assert "config_energy_weight is nan" in reasons["x/5"]
    assert "1 frames: energy of weight 0, taken as unknown (x/1)" in frames.summary()
    assert not frames.is_plain


def test_isolated_atoms_are_left_out_and_counted(tmp_path: Path) -> None:
    atom = (
        '1\nLattice="10 0 0 0 10 0 0 0 10" Properties=species:S:1:pos:R:3 '
        "REF_energy=-0.85 config_type={}\nSi 0 0 0\n"
    )
    frames = read(
        tmp_path,
        *(atom.format(kind) for kind in ("IsolatedAtom", "isolated_atom", "bulk")),
        GOOD,
    )
    assert frames.names == ["x/2", "x/3"]
    assert [place for place, _ in frames.skipped] == ["x/0", "x/1"]
    assert "frame 0: an isolated atom" in frames.summary()


def test_reference_values_win_over_those_of_a_sampler_and_it_is_said(
    tmp_path: Path,
) -> None:
    forces = "forces:R:3:REF_forces"
    line = "Si {} 0 0 9 0 0 0.1 0.2 0.3\n"
    text = (
        f'2\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3:{forces}:R:3 '
        "energy={} REF_energy=-10.5\n" + line.format(0) + line.format(1.5)
    )
    frames = read(tmp_path, text.format(-1.0), text.format(-10.5000001))
    record = frames.record(0)
    assert record.energy == -10.5
    np.testing.assert_array_equal(record.forces, [[0.1, 0.2, 0.3]] * 2)
    summary = frames.summary()
    assert "1 frames: energy under REF_energy and, with other values" in summary
    assert "(x/0 by 9.5 eV)" in summary
    assert "2 frames: forces under REF_forces" in summary
    assert "forces_key" in summary
    chosen = UpstreamFrames(tmp_path / "x.xyz", CUTOFF, {keys.ENERGY: "energy"})
    assert chosen.record(0).energy == -1


def test_a_virial_that_contradicts_the_stress_is_told(tmp_path: Path) -> None:
    volume = 2 * 2.7**3
    same = f'REF_virials="{-volume} 0 0 0 {-volume} 0 0 0 {-volume}"'
    stress = 'REF_energy=-1 REF_stress="1 0 0 0 1 0 0 0 1"'
    assert read(tmp_path, silicon(f"{stress} {same}")).is_plain
    other = read(tmp_path, silicon(f"{stress} {same.replace('-', '')}"))
    assert "stress under REF_stress and, with other values" in other.summary()
    assert other.record(0).stress[0, 0] == 1


def test_a_stress_that_is_not_finite_is_masked_alone(tmp_path: Path) -> None:
    frames = read(
        tmp_path,
        silicon('REF_energy=-10 REF_stress="nan 0 0 0 1 0 0 0 1"'),
        silicon('REF_energy=-10 REF_stress="1 0 0 0 1 0 0 0 1"'),
    )
    assert frames.known.tolist() == [[True, True, False], [True] * 3]
    assert "1 frames: the stress is not finite, taken as unknown" in frames.summary()


def test_labels_beyond_what_calculations_mean_are_refused(tmp_path: Path) -> None:
    kbar = silicon('REF_energy=-10 REF_stress="-181 0 0 0 -170 0 0 0 61"')
    broken = silicon("REF_energy=1e30")
    frames = read(tmp_path, kbar, broken, GOOD)
    assert frames.names == ["x/2"]
    reasons = dict(frames.skipped)
    assert re.search(r"181 eV/Å³ .*kbar.*1602\.18.*max_stress", reasons["x/0"])
    assert re.search(r"5e\+29 eV/atom.*max_energy", reasons["x/1"])
    assert len(read(tmp_path, kbar, GOOD, max_stress=200)) == 2
    assert len(read(tmp_path, broken, GOOD, max_energy=1e31)) == 2


BAD_FRAMES = {
    "species": (GOOD.replace("Si 0", "D 0"), "'D' is no chemical element.* as H"),
    "number": (GOOD.replace("1.35", "1.3.5"), "could not convert"),
    "column": (GOOD.replace(" -0.3", ""), "claims other columns|cannot be read"),
    "too few atoms": (GOOD.replace("2\n", "3\n", 1), "claims 3 atoms, 2 follow"),
    "too many atoms": (GOOD.replace("2\n", "1\n", 1), "claims 1 atoms, and more"),
    "10^12 atoms": (GOOD.replace("2\n", "1000000000000\n", 1), "claims 1000000000000"),
    "10^5000 atoms": (GOOD.replace("2\n", "1" * 5000 + "\n", 1), "more than the file"),
    "no number": ("# comment\n" + GOOD[2:], "begins with its number of atoms, not"),
    "no cell": (GOOD.replace('Lattice="', 'pbc="T T T" L="'), "lattice vectors"),
    "half a cell": (GOOD.replace('Lattice="', 'pbc="T T F" L="'), "lattice vectors"),
    "stress": (silicon('REF_energy=1 REF_stress="1 2"'), "the stress has 2 components"),
    "energy": (silicon("REF_energy=unknown"), "REF_energy is 'unknown'; a number"),
    "energy true": (silicon("REF_energy=T"), "REF_energy is 'True'; a number"),
    "two energies": (silicon('REF_energy="1 2"'), "holds 2 numbers; one is"),
    "10^9 columns": (GOOD.replace("pos:R:3", "pos:R:1000000000"), "claims other col"),
    "no columns": (GOOD.replace("pos:R:3", "pos:R:9:x:R:-6"), "claims other columns"),
    "drifted atom": (GOOD.replace("1.35 1.35", "1e3 1.35"), "cells apart.*Wrap"),
    "no atoms": ("0\nREF_energy=1\n", "no atoms"),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_frame_is_named_and_ends_nothing(
    tmp_path: Path, kind: str, packed: bool
) -> None:
    text, message = BAD_FRAMES[kind]
    content = (GOOD + text + "\n" + GOOD + GOOD).encode()
    path = tmp_path / ("x.xyz.xz" if packed else "x.xyz")
    path.write_bytes(lzma.compress(content) if packed else content)
    frames = UpstreamFrames(path, CUTOFF)
    assert frames.names == ["x/0", "x/2", "x/3"]
    ((place, reason),) = frames.skipped
    assert place == "x/1"
    assert re.search(rf"frame 1: .*{message}", reason)


def test_a_packed_file_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.xyz.gz"
    path.write_bytes(gzip.compress(GOOD.encode() * 3 + (b"x" * 10**6 + b"\n") * 18))
    with pytest.raises(DataFormatError, match="over 250 times"):
        UpstreamFrames(path, CUTOFF)


def test_a_file_without_line_breaks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xyz, "_MAX_LINE", 1000)
    with pytest.raises(DataFormatError, match="a line has more than 1000 characters"):
        read(tmp_path, GOOD, "2\n" + "x" * 2000)


def test_many_skips_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    frames = read(tmp_path, *[GOOD.replace("Si 0", "D 0")] * 30, GOOD)
    lines = frames.summary().splitlines()
    assert "30 skipped:" in lines
    assert lines[-1].strip() == "and 10 more"


def test_a_file_of_bad_frames_alone_is_left_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "_MOST_BAD", 5)
    bad = GOOD.replace("Si 0", "D 0")
    (tmp_path / "good.xyz").write_text(GOOD + bad * 9 + GOOD)
    (tmp_path / "bad.xyz").write_text(bad * 9 + GOOD)
    frames = UpstreamFrames(tmp_path, CUTOFF)
    assert frames.names == ["good/0", "good/10"]
    assert len(frames.skipped) == 10
    reason = dict(frames.skipped)[str(tmp_path / "bad.xyz")]
    assert re.search("none of its first 5 frames .*frame 4: 'D' is no", reason)
