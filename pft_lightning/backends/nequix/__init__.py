"""Nequix networks as models: ``model`` is the entry; ``network`` is built of e3nn."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from pft_lightning.backends.nequix.model import NequixModel

__all__ = ["NequixModel"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pft_lightning.backends.nequix import model

    return getattr(model, name)
