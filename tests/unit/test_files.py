from __future__ import annotations

import pytest

from pft_lightning.errors import StorageError
from pft_lightning.files import remove_partials, replacing, write_atomically


def test_a_file_written_at_a_path_takes_its_place_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model.nequip.zip"
    path.write_text("old")

    def break_off():
        with replacing(path) as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert path.read_text() == "old"
    with replacing(path) as partial:
        assert partial.name == path.name
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_there_once_all_its_files_are(tmp_path):
    out = tmp_path / "structures"
    with replacing(out) as partial:
        (partial / "0").mkdir(parents=True)
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["0"]


def test_a_file_that_was_never_written_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"a\.txt"), replacing(tmp_path / "a.txt"):
        pass


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    write_atomically(tmp_path / "last.ckpt", lambda file: file.write(b"whole"))
    (tmp_path / "last.ckpt.partial").write_text("of an earlier version")
    (tmp_path / ".last.ckpt.x1.partial").write_text("half")
    (tmp_path / ".out.x2.partial").mkdir()
    (tmp_path / ".out.x2.partial" / "out").write_text("half")
    remove_partials(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
