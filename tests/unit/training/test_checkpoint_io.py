from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from pft_lightning.errors import CheckpointError, StorageError
from pft_lightning.training.checkpoint_io import AtomicCheckpointIO, read_checkpoint


REMEDY = "Start anew."


@pytest.fixture
def last(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "last.ckpt"
    state = {"weights": torch.arange(5000.0)}
    AtomicCheckpointIO().save_checkpoint({"state_dict": state, "loops": {}}, path)
    return path


def test_a_full_disk_leaves_the_last_checkpoint_whole(last: Path) -> None:
    before = last.read_bytes()
    larger = {"state_dict": {"weights": torch.zeros(50_000)}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"last\.ckpt: cannot be written.*room"):
            AtomicCheckpointIO().save_checkpoint(larger, last)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    assert last.read_bytes() == before
    assert read_checkpoint(last, remedy=REMEDY)["state_dict"]["weights"][7] == 7


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_truncated_checkpoints_are_named(last: Path, kept: float) -> None:
    content = last.read_bytes()
    last.write_bytes(
        content[: kept if isinstance(kept, int) else int(kept * len(content))]
    )
    with pytest.raises(CheckpointError, match=rf"{last}.*truncated.*{REMEDY}"):
        read_checkpoint(last, remedy=REMEDY)


def test_a_flipped_byte_in_the_weights_is_named(last: Path) -> None:
    content = bytearray(last.read_bytes())
    content[content.index(torch.tensor([4000.0]).numpy().tobytes()) + 1] ^= 255
    last.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        read_checkpoint(last, remedy=REMEDY)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1], "holds a list"), ({"epoch": 3}, "no state_dict"), (Path, "damaged")],
)
def test_other_files_of_torch_are_named(tmp_path: Path, content, message) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "x.ckpt", remedy=REMEDY)
