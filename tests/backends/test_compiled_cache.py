"""The library in the user's cache is loaded only as this user built it."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pft_lightning.kernels import compiled


pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler here"
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Of the cache; the library is one function that gives 7."""
    (tmp_path / "tiny.c").write_text('#include "tiny.h"\nint seven(void) {return 7;}\n')
    (tmp_path / "tiny.h").write_text("int seven(void);\n")
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "module.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PFT_LIGHTNING_COMPILE", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiled.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    # Not through the cache of the process, which holds other libraries.
    monkeypatch.setattr(compiled, "load_library", compiled.load_library.__wrapped__)
    return tmp_path / "cache" / "pft_lightning" / "compiled"


def seven() -> int:
    return compiled.load_library("tiny").seven()


def built(folder: Path) -> Path:
    (library,) = folder.glob("*.so")
    return library


def test_it_is_built_once(folder):
    assert seven() == 7
    first = built(folder).stat()
    assert seven() == 7
    assert built(folder).stat().st_mtime_ns == first.st_mtime_ns
    assert not first.st_mode & 0o022
    assert not folder.stat().st_mode & 0o022


@pytest.mark.parametrize("damage", ["half", "empty", "other", "link"])
def test_another_content_is_built_again(folder, damage):
    seven()
    library = built(folder)
    content = library.read_bytes()
    library.unlink()
    if damage == "link":
        library.symlink_to("/etc/passwd")
    else:
        other = content.replace(b"seven", b"eight")
        library.write_bytes(
            {"half": content[: len(content) // 2], "empty": b"", "other": other}[damage]
        )
    assert seven() == 7
    assert built(folder).read_bytes() == content


@pytest.mark.parametrize("name", ["library", "folder"])
def test_what_others_may_write_is_built_again(folder, name):
    seven()
    library = built(folder)
    before = library.stat().st_ino
    (library if name == "library" else folder).chmod(0o777)
    assert seven() == 7
    assert built(folder).stat().st_ino != before
    assert not folder.stat().st_mode & 0o022
    assert not built(folder).stat().st_mode & 0o022


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_a_folder_of_another_user_is_left_alone(folder):
    seven()
    os.chown(folder, 12345, 12345)
    before = built(folder).stat().st_atime_ns
    with pytest.warns(UserWarning, match="belongs to another user.*compiled in"):
        assert seven() == 7
    assert built(folder).stat().st_atime_ns == before


def test_without_a_cache_the_processes_of_a_machine_share_one(folder, tmp_path):
    folder.parent.parent.mkdir()
    folder.parent.write_text("no folder")
    shared = tmp_path / "tmp" / f"pft_lightning-{os.getuid()}"
    states = []
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"cannot be used.*compiled in {shared}"):
            assert seven() == 7
        states.append(built(shared).stat().st_mtime_ns)
    assert states[0] == states[1]
    assert not shared.stat().st_mode & 0o077


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_lies_where_they_would_share_is_not_followed(folder, tmp_path, kind):
    folder.parent.parent.mkdir()
    folder.parent.write_text("no folder")
    shared = tmp_path / "tmp" / f"pft_lightning-{os.getuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shared.symlink_to(elsewhere) if kind == "link" else shared.write_text("")
    with pytest.warns(UserWarning, match="cannot be used"):
        assert seven() == 7
    assert not list(elsewhere.iterdir())


def test_processes_that_start_together_compile_once(folder, monkeypatch):
    calls = []
    build = compiled._build
    monkeypatch.setattr(
        compiled, "_build", lambda *args: calls.append(1) or build(*args)
    )
    with ThreadPoolExecutor(4) as pool:
        assert [f.result() for f in [pool.submit(seven) for _ in range(4)]] == [7] * 4
    assert len(calls) == 1


def test_without_a_compiler_there_is_one_warning(folder, monkeypatch):
    monkeypatch.setenv("CC", "false")
    with pytest.warns(UserWarning, match=r"tiny\.c could not be compiled") as caught:
        assert compiled.load_library("tiny") is None
    assert len(caught) == 1
