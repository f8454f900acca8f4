"""What a model file is, found from its content without running any of it."""

from __future__ import annotations

import io
import pickletools
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from safetensors import SafetensorError, safe_open

from pft_lightning.errors import CheckpointError
from pft_lightning.json_files import parse_json


# torch.save before version 1.6 wrote bare pickles; both start with this opcode.
_PICKLE_START = b"\x80"
# Bytes; a configuration is not longer, and other files may have no second line.
LONGEST_HEADER = 1_000_000

# torch stores without compression; other programs that pack it again save a half.
_LARGEST_RATIO = 20

# What the portable form of a MACE network says it is.
MACE_PORTABLE = "pft_lightning.mace"
# Stands among the strings of a safetensors file that mentions MACE.
_MACE = "mace"
# A safetensors file starts with the length of its header (8 bytes), then the header.
_SAFETENSORS_START = b'{"'


@dataclass(frozen=True, slots=True)
class FileContent:
    """Facts about a model file that backends recognise it by.

    Attributes:
        path: the file.
        members: names inside a zip archive; empty for other files.
        classes: ``module.name`` of everything its pickle refers to, in order.
        strings: short strings of its pickle, dictionary keys and class paths, or of
            the metadata of a safetensors file.
        header: keys of the JSON object in its first line, where there is one.
        is_safetensors: whether it is of that format.
    """

    path: Path
    members: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()
    strings: frozenset[str] = field(default_factory=frozenset)
    header: frozenset[str] = frozenset()
    is_safetensors: bool = False

    @property
    def is_code(self) -> bool:
        """Whether it is a NequIP package, whose own Python code builds the network."""
        return any(m.endswith("/model/package_metadata.txt") for m in self.members)

    def describe(self) -> str:
        """Best guess, in words, for an error message."""
        if any(m.endswith("/constants.pkl") for m in self.members):
            return "a compiled TorchScript archive, which cannot be trained"
        if self.header:
            shown = ", ".join(sorted(self.header)[:5])
            return f"a file that starts with JSON ({shown}, ...)"
        if "pytorch-lightning_version" in self.strings:
            return "a Lightning checkpoint of another program"
        if self.is_safetensors and _MACE in self.strings:
            return (
                "a safetensors file of another version of MACE; .model files of MACE "
                "0.3 and the portable form of pft-export are read"
            )
        if self.is_safetensors:
            return "a safetensors file that does not describe a network"
        if self.classes or self.strings:
            shown = ", ".join(self.classes[:3]) or "plain values"
            return f"a pickle of {shown}"
        if self.members:
            return "a zip archive that holds no model"
        return "not a file that torch.save or torch.package wrote"


def read_content(path: Path) -> FileContent:
    """Look into a file; pickles are only disassembled, never executed.

    Raises:
        CheckpointError: missing, a folder, empty, or truncated.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such file. Give the path of a model file; a path is taken "
            f"relative to the working folder, {Path.cwd()}."
        )
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; expected a model file.")
    if not path.is_file():
        raise CheckpointError(
            f"{path}: is a pipe, socket or device; expected a model file."
        )
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: is empty. Copy or download it again.")
    try:
        return _read_start(path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror or error}). Check its "
            "permissions, or copy it again."
        ) from error


def _read_start(path: Path) -> FileContent:
    with path.open("rb") as file:
        start = file.read(4)
        if start.startswith(b"{"):
            file.seek(0)
            return FileContent(path, header=_read_header(file))
    if is_safetensors(path):
        return _read_safetensors(path)
    if _is_zip(path):
        return _read_zip(path)
    if start == b"PK\x03\x04":
        raise CheckpointError(
            f"{path}: starts as a torch file of {path.stat().st_size} bytes but its "
            "end is missing (truncated). Copy or download it again."
        )
    if start[:1] == _PICKLE_START:
        return _read_legacy(path)
    return FileContent(path)


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True  # a damaged one


def _read_header(file: IO[bytes]) -> frozenset[str]:
    try:
        header = parse_json(file.readline(LONGEST_HEADER))
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(header) if isinstance(header, dict) else frozenset()


def is_safetensors(path: Path) -> bool:
    """Whether a file starts as safetensors do."""
    with path.open("rb") as file:
        return file.read(10)[8:] == _SAFETENSORS_START


def _read_safetensors(path: Path) -> FileContent:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its header or its end is damaged ({error}). Copy or download it "
            "again."
        ) from error
    strings = frozenset(v for v in metadata.values() if len(v) < 200)
    if any(_MACE in text.lower() for text in (*metadata, *metadata.values())):
        strings |= {_MACE}
    return FileContent(path, strings=strings, is_safetensors=True)


def _read_zip(path: Path) -> FileContent:
    with path.open("rb") as file:
        members, data = _unpack(file, path)
    classes, strings = _disassemble(data, path) if data else ((), frozenset())
    return FileContent(path, members, classes, strings)


def check_archive(file: IO[bytes], path: Path) -> None:
    """Refuse an archive of torch whose content is not what was written.

    torch itself reads damaged weights without a word.

    Args:
        file: archive.
        path: named in messages.

    Raises:
        CheckpointError: a checksum does not fit, or it unpacks to far more.
    """
    _unpack(file, path)


def _unpack(file: IO[bytes], path: Path) -> tuple[frozenset[str], bytes]:
    """Names in an archive, and its pickle."""
    try:
        size = file.seek(0, io.SEEK_END)
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > _LARGEST_RATIO * size:
                raise zipfile.BadZipFile(f"{size} bytes would become {unpacked}")
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} does not fit")
            members = archive.namelist()
            pickles = [
                m for m in members if m.count("/") == 1 and m.endswith("data.pkl")
            ]
            return frozenset(members), archive.read(pickles[0]) if pickles else b""
    # A damaged directory makes zipfile fail in any way.
    except Exception as error:
        raise CheckpointError(
            f"{path}: damaged or truncated archive ({error}). Copy or download it "
            "again."
        ) from error


def _read_legacy(path: Path) -> FileContent:
    """Bare pickles, several in a row: magic number, protocol, system, object."""
    classes: tuple[str, ...] = ()
    strings: frozenset[str] = frozenset()
    with path.open("rb") as file:
        try:
            for _ in range(4):
                found = _scan(file)
                classes, strings = classes + found[0], strings | found[1]
        except Exception:  # a damaged pickle fails in any way
            if not classes and not strings:
                return FileContent(path)
    return FileContent(path, frozenset(), classes, strings)


def _disassemble(data: bytes, path: Path) -> tuple[tuple[str, ...], frozenset[str]]:
    try:
        return _scan(data)
    except Exception as error:  # a damaged pickle fails in any way
        raise CheckpointError(
            f"{path}: its pickle is damaged ({error}). Copy or download it again."
        ) from error


def _scan(source: object) -> tuple[tuple[str, ...], frozenset[str]]:
    classes: dict[str, None] = {}
    strings: set[str] = set()
    recent: list[str] = []
    for opcode, argument, _ in pickletools.genops(source):  # type: ignore[arg-type]
        if opcode.name == "GLOBAL":
            classes[str(argument).replace(" ", ".")] = None
        elif opcode.name == "STACK_GLOBAL" and len(recent) >= 2:
            classes[".".join(recent[-2:])] = None
        elif isinstance(argument, str) and len(argument) < 200:
            strings.add(argument)
            recent = [*recent[-1:], argument]
    return tuple(classes), frozenset(strings)
