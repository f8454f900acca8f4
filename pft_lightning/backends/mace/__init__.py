"""MACE networks as models: ``model`` is the entry, the rest is about their files."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from pft_lightning.backends.mace.model import MACEModel

__all__ = ["MACEModel"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pft_lightning.backends.mace import model

    return getattr(model, name)
