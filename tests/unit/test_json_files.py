from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from pft_lightning.errors import DataFormatError, StorageError
from pft_lightning.json_files import find_json, read_json, write_json


def test_what_is_not_finite_becomes_null(tmp_path) -> None:
    path = tmp_path / "new" / "a.json"
    numbers = {"a": float("nan"), "b": [np.float32("inf"), 1.5], "c": {"d": np.nan}}
    write_json(path, numbers)
    assert read_json(path) == {"a": None, "b": [None, 1.5], "c": {"d": None}}
    json.loads(path.read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"3", b"\xff", b"[" * 100_000, b'{"a": }']
)
def test_damaged_files_are_named(tmp_path, content) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataFormatError, match=rf"{path}: .*\. Do that\.$"):
        read_json(path, remedy="Do that.")
    assert find_json(path) is None
    assert find_json(tmp_path / "none.json") is None


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StorageError, match=r"a\.json.*No space left.*make room"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_deep_nesting_is_named_whatever_libraries_set_the_limit_to(tmp_path) -> None:
    before = sys.getrecursionlimit()
    path = tmp_path / "deep.json"
    path.write_bytes(b"[" * 100_000)
    try:
        sys.setrecursionlimit(1_000_000)  # as symfc does
        with pytest.raises(DataFormatError, match="cannot be read as JSON"):
            read_json(path)
        assert sys.getrecursionlimit() == 1_000_000
    finally:
        sys.setrecursionlimit(before)
