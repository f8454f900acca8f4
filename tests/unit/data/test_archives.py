"""Archives of phonon calculations, sound and hostile, read without unpacking them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from molecular_files import molecule, write_vibrations

from pft_lightning.data.readers import archives, list_entries, read_entry, read_phonon
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.readers.registry import entry_name
from pft_lightning.data.store import PhononStore, build_store
from pft_lightning.errors import DataFormatError


OPTIONS = PhononReadOptions()


@pytest.fixture(scope="module")
def texts(spring_phonon, tmp_path_factory) -> dict[str, bytes]:
    """Two phonopy files, by name."""
    found = {}
    for name, crystal in (("iron", "simple cubic"), ("silicon", "one cell")):
        phonon = spring_phonon(crystal)
        phonon.produce_force_constants()
        path = tmp_path_factory.mktemp("texts") / "phonopy.yaml"
        phonon.save(path, settings={"force_sets": False, "force_constants": True})
        found[name] = path.read_bytes()
    return found


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.bz2", "txz", "zip"])
def test_members_are_materials_in_every_kind_of_archive(
    texts, tmp_path: Path, ending: str
) -> None:
    first, second = texts.values()
    members = {
        "pbe/agm1.yaml.bz2": bz2.compress(first),
        "pbe/README": b"about",
        "pbe/band.yaml": b"nqpoint: 1",
        "__MACOSX/pbe/._agm1.yaml": b"\x00\x05\x16\x07",
        "mp-2-20180417/phonopy_disp.yaml": b"phonopy: {}",
        "mp-2-20180417/phonopy_params.yaml.xz": lzma.compress(second),
        "plain.yaml": first,
    }
    path = tmp_path / f"set.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        mode = {"tar": "w", "txz": "w:xz", "tar.bz2": "w:bz2"}.get(ending, "w:gz")
        with tarfile.open(path, mode) as archive:
            for name, data in members.items():
                add(archive, name, data)
    before = sorted(tmp_path.rglob("*"))
    assert list_entries(path) == [0, 1, 2]
    # In any order.
    sizes = [read_entry(path, entry, OPTIONS).n_atoms for entry in (2, 0, 1)]
    assert sizes == [8, 8, 3]
    assert sorted(tmp_path.rglob("*")) == before
    build_store(tmp_path, tmp_path / "x.store", cutoff=3.5, progress=False)
    store = PhononStore(tmp_path / "x.store")
    assert store.names == ["agm1", "mp-2-20180417", "plain"]
    (tmp_path / "plain.yaml").write_bytes(first)
    alone = read_phonon(tmp_path / "plain.yaml")
    np.testing.assert_array_equal(
        store.record(2).force_constants.compact, alone.force_constants.compact
    )
    source = str(store.record(0).info["source"])
    assert source.endswith(f"set.{ending}/pbe/agm1.yaml.bz2")


def test_an_archive_of_one_material_names_it(texts, tmp_path: Path) -> None:
    path = tmp_path / "mp-149-20180417.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        add(archive, "./phonopy_params.yaml", texts["iron"])
    assert read_phonon(path).name == "mp-149-20180417"
    path = tmp_path / "mp-2.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("phonopy_params.yaml", texts["iron"])
    assert read_phonon(path).name == "mp-2"


def test_hostile_names_and_kinds_of_members_touch_nothing(
    texts, tmp_path: Path
) -> None:
    (text,) = list(texts.values())[:1]
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "../../outside.yaml", text)
        add(archive, "/etc/absolute.yaml", text)
        add(archive, "line\nbreak\x1b[31m.yaml", text)
        add(archive, "\udcff.yaml", text)
        for kind, target in (
            (tarfile.SYMTYPE, "/etc/passwd"),
            (tarfile.LNKTYPE, "../../outside.yaml"),
            (tarfile.FIFOTYPE, ""),
            (tarfile.CHRTYPE, ""),
        ):
            info = tarfile.TarInfo(f"special{kind.decode()}.yaml")
            info.type, info.linkname = kind, target
            archive.addfile(info)
    report = build_store(folder, tmp_path / "x.store", cutoff=3.5, progress=False)
    assert report.n_structures == 4
    assert report.skipped == ()
    assert not (tmp_path / "outside.yaml").exists()
    names = PhononStore(tmp_path / "x.store").names
    assert names[:2] == ["outside", "absolute"]
    assert all(name.isprintable() for name in names)


def test_bombs_are_refused_before_they_are_unpacked(texts, tmp_path: Path) -> None:
    zeros = bytes(1 << 25)
    inner = bz2.compress(zeros)
    with tarfile.open(tmp_path / "inner.tar", "w") as archive:
        add(archive, "bomb.yaml.bz2", inner)
        add(archive, "good.yaml", next(iter(texts.values())))
    with pytest.raises(DataFormatError, match=r"inner.tar/bomb.yaml.bz2: .* unpack to"):
        read_entry(tmp_path / "inner.tar", 0, OPTIONS)
    # The other member is as good as it was.
    assert read_entry(tmp_path / "inner.tar", 1, OPTIONS).n_atoms == 8
    with tarfile.open(tmp_path / "outer.tar.gz", "w:gz") as archive:
        add(archive, "bomb.yaml", zeros)
    with pytest.raises(DataFormatError, match=r"outer.tar.gz: .* unpack to"):
        read_entry(tmp_path / "outer.tar.gz", 0, OPTIONS)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.yaml", zeros)
    with pytest.raises(DataFormatError, match=r"b.zip/bomb.yaml: .* unpack to"):
        read_entry(tmp_path / "b.zip", 0, OPTIONS)
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    (tmp_path / "header.tar").write_bytes(
        header.tobuf(tarfile.GNU_FORMAT) + bytes(10240)
    )
    with pytest.raises(DataFormatError, match="a header claims 8589934592 bytes"):
        list_entries(tmp_path / "header.tar")


def test_a_truncated_archive_gives_its_whole_members_and_names_the_other(
    texts, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, text in texts.items():
            add(archive, f"{name}.yaml", text)
    whole = path.read_bytes()
    first, second = map(len, texts.values())
    end = 512 + -(-first // 512) * 512 + 512 + second // 2
    path.write_bytes(whole[:end])
    report = build_store(path, tmp_path / "x.store", cutoff=3.5, progress=False)
    assert report.n_structures == 1
    ((_, reason),) = report.skipped
    assert "a.tar/silicon.yaml: the file ends early" in reason
    (tmp_path / "b.tar").write_bytes(whole[:300])
    with pytest.raises(DataFormatError, match="is no tar archive that can be read"):
        list_entries(tmp_path / "b.tar")
    (tmp_path / "c.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(DataFormatError, match="is no zip archive that can be read"):
        list_entries(tmp_path / "c.zip")
    (tmp_path / "d.tar.gz").write_bytes(gzip.compress(whole)[:-400])
    assert list_entries(tmp_path / "d.tar.gz") == [0, 1]
    assert read_entry(tmp_path / "d.tar.gz", 0, OPTIONS).n_atoms == 8
    with pytest.raises(DataFormatError, match=r"d.tar.gz: the file ends early"):
        read_entry(tmp_path / "d.tar.gz", 1, OPTIONS)


def test_archives_without_phonons_say_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("mp-1/FORCE_SETS", "2")
    with pytest.raises(DataFormatError, match=r"Folders with FORCE_SETS .* unpacked"):
        list_entries(tmp_path / "a.zip")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz"])
def test_what_follows_damage_in_an_archive_is_named_and_what_is_before_it_is_read(
    texts, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"set.{ending}"
    noise = np.random.default_rng(0).bytes(1 << 20)
    with tarfile.open(path, f"w:{ending[4:]}") as archive:
        add(archive, "iron.yaml", texts["iron"])
        add(archive, "noise.bin", noise)
        add(archive, "silicon.yaml", texts["silicon"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    report = build_store(path, tmp_path / "x.store", cutoff=3.5, progress=False)
    assert report.n_structures == 1
    ((_, reason),) = report.skipped
    assert f"{path}: nothing after its member noise.bin can be read" in reason


def _damaged_header(first: bytes) -> bytes:
    return b"x" + first[1:]


def _negative_size(first: bytes) -> bytes:
    header = bytearray(first)
    header[124:136] = tarfile.itn(-512, 12, tarfile.GNU_FORMAT)
    total = tarfile.calc_chksums(header)[0]
    header[148:156] = f"{total:06o}\0 ".encode()
    return bytes(header)


@pytest.mark.parametrize("change", [_damaged_header, _negative_size])
def test_a_header_that_is_damaged_is_not_taken_for_the_end(
    texts, tmp_path: Path, change
) -> None:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "iron.yaml", texts["iron"])
        place = archive.offset
        add(archive, "silicon.yaml", texts["silicon"])
    data = path.read_bytes()
    header = change(data[place : place + 512])
    path.write_bytes(data[:place] + header + data[place + 512 :])
    assert list_entries(path) == [0, 1]
    assert read_entry(path, 0, OPTIONS).n_atoms == 8
    with pytest.raises(DataFormatError, match="nothing after its member iron"):
        read_entry(path, 1, OPTIONS)


def write_archive(path: Path, members: list[tuple[str, bytes]]) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members:
                archive.writestr(name, data)
        return
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            add(archive, name, data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_a_member_that_was_replaced_is_read_once_as_it_is_now(
    texts, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"set.{ending}"
    # As "tar -r" adds a file again.
    members = [("a.yaml", texts["iron"]), ("b.yaml", texts["iron"])]
    write_archive(path, [*members, ("./a.yaml", texts["silicon"])])
    assert list_entries(path) == [0, 1]
    found = [read_entry(path, entry, OPTIONS) for entry in (0, 1)]
    assert [(record.name, record.n_atoms) for record in found] == [("b", 8), ("a", 3)]


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_json_of_no_phonons_is_passed_over_and_lists_of_documents_say_what_to_do(
    texts, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"set.{ending}"
    several = b'[{"force_constants": 1}, {"force_constants": 2}]'
    members = [
        ("meta.json", b'{"made_by": "me"}'),
        ("meta2.json.gz", gzip.compress(b'{"made_by": "me"}')),
        ("several.json", several),
        ("a.yaml", texts["iron"]),
        ("damaged.json.gz", gzip.compress(several)[:-9]),
    ]
    write_archive(path, members)
    names = [entry_name(path, entry) for entry in list_entries(path)]
    assert names == ["several", "a", "damaged"]
    with pytest.raises(DataFormatError, match=r"several.json: holds 2 documents; .*Un"):
        read_entry(path, 0, OPTIONS)
    assert read_entry(path, 1, OPTIONS).n_atoms == 8
    with pytest.raises(DataFormatError, match=r"damaged.json.gz: the file ends early"):
        read_entry(path, 2, OPTIONS)


def test_a_zip_is_opened_once_for_all_its_members(
    texts, tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "set.zip"
    write_archive(path, [(f"{n}.yaml", texts["iron"]) for n in range(5)])
    opened: list[Path] = []

    class Counted(zipfile.ZipFile):
        def __init__(self, file: Path) -> None:
            opened.append(file)
            super().__init__(file)

    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    for entry in list_entries(path):
        read_entry(path, entry, OPTIONS)
    assert opened == [path]


def test_the_number_of_members_is_bounded(texts, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 2)
    for ending in ("tar", "zip"):
        members = [(f"{n}.yaml", texts["iron"]) for n in range(3)]
        write_archive(tmp_path / f"set.{ending}", members)
    with pytest.raises(DataFormatError, match="more than 2 members"):
        list_entries(tmp_path / "set.zip")
    # A tar is listed as far as it goes.
    assert list_entries(tmp_path / "set.tar") == [0, 1, 2]
    with pytest.raises(DataFormatError, match="more than 2 members"):
        read_entry(tmp_path / "set.tar", 2, OPTIONS)


def test_members_in_json_are_named_alike_in_stores_and_evaluations(
    tmp_path: Path,
) -> None:
    path = tmp_path / "set.tar"
    write_vibrations(tmp_path / "a.json", *molecule("H2O"))
    with tarfile.open(path, "w") as archive:
        add(archive, "H2O.json", (tmp_path / "a.json").read_bytes())
    assert entry_name(path, 0) == read_entry(path, 0, OPTIONS).name == "H2O"
