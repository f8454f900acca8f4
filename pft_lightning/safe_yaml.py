"""YAML files of others: data only, no Python objects, and no more of it than there is.

PyYAML's default loaders build any Python object that a file asks for, which runs its
code; a few aliases of aliases in 6 kB stand for billions of values. ``load_yaml`` is
how every YAML file is read here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

from pft_lightning.errors import DataFormatError
from pft_lightning.files import MAX_BYTES, read_data


# Values that any file may hold, and how many more for each of its bytes on the disk.
# The largest phonopy files have one value for 15 bytes, compressed ones one for two.
_VALUES: Final = 1_000_000
_VALUES_PER_BYTE: Final = 5

# Most values of any file: full force constants of 1500 atoms.
_MAX_VALUES: Final = 30_000_000

# Characters before which no value can begin; counting them is fast.
_STARTS: Final = (b",", b"[", b"{", b":", b"-", b"?")

# Integers of more digits mean nothing, and base 60 (1:59:59) takes forever.
_MAX_DIGITS: Final = 100

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """Safe loader; it also knows the numbers of YAML 1.2, as 1e-5."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _MAX_DIGITS:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"an integer of {len(node.value)} characters",
                node.start_mark,
            )
        return int(super().construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def load_yaml(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Load a plain or compressed (.xz, .lzma, .gz, .bz2) YAML file.

    Args:
        path: the file.
        max_bytes: most bytes that it may hold, unpacked.

    Returns:
        Dictionaries, lists, numbers, strings, booleans, dates and None.

    Raises:
        DataFormatError: no YAML, a tag that asks for a Python object, too deep, too
            large, or aliases that stand for more than the file holds.
        OSError: there is no such file, or it may not be read.
    """
    path = Path(path)
    return parse_yaml(
        read_data(path, max_bytes=max_bytes), path, on_disk=path.stat().st_size
    )


def parse_yaml(data: bytes, path: Path, *, on_disk: int) -> Any:
    """Load YAML that is in memory already; see ``load_yaml``.

    Args:
        data: unpacked.
        path: the file, for messages.
        on_disk: bytes of the file, packed or not.

    Raises:
        DataFormatError: as ``load_yaml``.
    """
    limit = min(_MAX_VALUES, _VALUES + _VALUES_PER_BYTE * on_disk)
    n_values = sum(data.count(start) for start in _STARTS)
    if n_values > limit:
        raise _too_many(path, on_disk, f"about {n_values}", limit)
    try:
        return _construct(data, path, limit)
    except yaml.constructor.ConstructorError as error:
        raise DataFormatError(
            f"{path}: holds more than data ({_one_line(error)}). Values that ask for "
            "Python objects or are malformed are not built: remove them."
        ) from error
    except DataFormatError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataFormatError(
            f"{path}: is not YAML that can be read ({_one_line(error)}). Check that "
            "the file is complete and of the kind that its name says."
        ) from error


def _construct(data: bytes, path: Path, limit: int) -> Any:
    loader = _Loader(data)
    try:
        root = loader.get_single_node()
        # Without an anchor there is no alias.
        if b"&" in data and root is not None and _expanded_size(root) > limit:
            raise _too_many(path, len(data), "aliases that stand for more", limit)
        return None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def _expanded_size(root: yaml.Node) -> float:
    """Count the values of a document where every alias is replaced by what it names.

    Returns:
        Their number; infinity where a value holds itself.
    """
    sizes: dict[int, float] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        children = _children(node)
        if id(node) not in sizes:
            # Until its children are counted, a node that holds itself is endless.
            sizes[id(node)] = float("inf")
            unseen = [child for child in children if id(child) not in sizes]
            if unseen:
                stack += unseen
                continue
        stack.pop()
        sizes[id(node)] = 1.0 + sum(sizes[id(child)] for child in children)
    return sizes[id(root)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _too_many(path: Path, size: int, got: str, limit: int) -> DataFormatError:
    return DataFormatError(
        f"{path}: {size} bytes hold {got} values; at most {limit} are read from a file "
        "of this size. Write it again without aliases (&, *), or unpack it."
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
