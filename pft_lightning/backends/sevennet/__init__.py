"""SevenNet networks as models: ``model`` is the entry, the rest is about files."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from pft_lightning.backends.sevennet.model import SevenNetModel

__all__ = ["SevenNetModel"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pft_lightning.backends.sevennet import model

    return getattr(model, name)
