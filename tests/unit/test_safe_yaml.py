"""Files of others: what is in them is data, and no more than the file can hold."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pft_lightning.errors import DataFormatError
from pft_lightning.files import open_data, read_data
from pft_lightning.safe_yaml import load_yaml


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "a.xz": lzma.compress,
    "a.lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "a.gz": gzip.compress,
    "a.bz2": bz2.compress,
    "a": gzip.compress,  # compressed, but its name does not say so
}


@pytest.mark.parametrize("name", PACKERS)
def test_packed_files_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKERS[name](b"one\ntwo\n"))
    assert read_data(path) == b"one\ntwo\n"
    with open_data(path) as file:
        assert [line.strip() for line in file] == [b"one", b"two"]


@pytest.mark.parametrize("name", PACKERS)
def test_a_file_that_unpacks_without_end_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKERS[name](bytes(40 << 20)))
    with pytest.raises(DataFormatError, match=r"a\S*: \d+ bytes unpack to more than"):
        read_data(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_stated_limit_holds(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a"
    path.write_bytes(pack(bytes(1000)))
    assert len(read_data(path, max_bytes=1000)) == 1000
    with pytest.raises(DataFormatError, match="at most 999 are read"):
        read_data(path, max_bytes=999)


@pytest.mark.parametrize("name", ["a.xz", "a.gz", "a.bz2"])
def test_damaged_packed_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKERS[name](b"some text " * 99)[:-9])
    with pytest.raises(DataFormatError, match=r"a\.\w+: the file ends early"):
        read_data(path)
    path.write_bytes(b"plain text")
    with pytest.raises(DataFormatError, match=r"is no \.\w+ file: it begins"):
        read_data(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="no regular file"):
        read_data(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_data(tmp_path / "none")


def _load(folder: Path, text: str | bytes) -> Any:
    path = folder / "a.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_yaml(path)


def test_values_are_those_of_the_safe_loader(tmp_path: Path) -> None:
    text = "a: &x [1, 2.5, -0x1f, '1', true, null, 2026-11-27]\nb: {c: *x, <<: {d: 1}}"
    assert _load(tmp_path, text) == yaml.safe_load(text)
    assert _load(tmp_path, "") is None


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-5 and 1.5e5 for text; no one who writes them means it."""
    assert _load(tmp_path, "[1e-5, -2E+3, 1.5e5, .5e1, '1e-5', e5]") == [
        1e-5,
        -2e3,
        1.5e5,
        5.0,
        "1e-5",
        "e5",
    ]


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch PWNED']",
        "!!python/object/new:pathlib.Path [PWNED]",
        "!!python/name:os.system",
        "!!python/tuple [1, 2]",
        "!unknown x",
    ],
)
def test_python_objects_are_not_built(
    tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataFormatError, match=r"holds more than data .*line 2"):
        _load(tmp_path, f"a: 1\nb: {tag}\n")
    assert not (tmp_path / "PWNED").exists()


def _bomb(item: str) -> str:
    lines = ["a0: &a0 [1, 1]"]
    for i in range(1, 40):
        previous = item.format(i - 1)
        lines.append(f"a{i}: &a{i} {previous}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        _bomb("[*a{0}, *a{0}, *a{0}]"),
        _bomb("{{x: *a{0}, y: *a{0}}}"),
        _bomb("[*a{0}, *a{0}]").replace("a0: &a0 [1, 1]", "a0: &a0 {k: 1}"),
        "a0: &a0 {k: 1}\n"
        + "\n".join(
            f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40)
        ),
        "a: &a [*a]",
    ],
)
def test_aliases_stand_for_no_more_than_a_file_holds(tmp_path: Path, text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(DataFormatError, match=r"a\.yaml: \d+ bytes hold aliases"):
        _load(tmp_path, text)
    # Expanded, these are 10^11 values or endless; refused, they take milliseconds.
    assert time.perf_counter() - start < 5.0


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "- " * 100_000, "{a: " * 5000, "[1, 2", "a: b: c", b"\xff\xfe\x00"],
)
def test_what_is_no_yaml_is_named(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(DataFormatError, match=r"a\.yaml: is not YAML that can be read"):
        _load(tmp_path, text)


def test_a_small_file_with_millions_of_values_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml.xz"
    path.write_bytes(lzma.compress(b"[" + b"[],\n" * 2_000_000 + b"]", preset=0))
    with pytest.raises(DataFormatError, match=r"hold about 4000001 values; at most"):
        load_yaml(path)


def test_numbers_of_base_sixty_and_thousands_of_digits_end(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="an integer of 60001 characters"):
        _load(tmp_path, "a: 1" + ":59" * 20_000)
    assert math.isinf(_load(tmp_path, "a: .inf")["a"])
