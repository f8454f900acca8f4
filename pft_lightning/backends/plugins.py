"""What a backend tells about itself, and the backends of other packages.

A package brings one by an entry point of the group ``pft_lightning.backends``: its name
is the backend's, its object a ``Backend``. See docs/develop/add_backend.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points

from pft_lightning.backends.reading.content import FileContent
from pft_lightning.errors import BackendUnavailableError


GROUP = "pft_lightning.backends"


@dataclass(frozen=True, slots=True)
class Backend:
    """One row of the registry.

    Attributes:
        name: what users write in ``backend=``.
        module: import path, imported on first use; offers
            ``load(path, *, dtype, device, head, trust)``.
        kind: what its files are, in words.
        library: importable name of the library behind it; empty for none.
        extra: of the package that brings it, to install the library.
        conflict: what cannot share an environment with it, for the error message.
        endings: of the names of its files, such as ``.tiny``.
        recognise: whether a file belongs to it; None: those of its endings do.
        package: that brings it.
        foundation_names: how names of its published models start, in lower case; its
            module has ``find_foundation_model(name)``.
        functionals: of the labels of these models, by how their names start.
    """

    name: str
    module: str
    kind: str
    library: str = ""
    extra: str = ""
    conflict: str = ""
    endings: tuple[str, ...] = ()
    recognise: Callable[[FileContent], bool] | None = None
    package: str = "pft_lightning"
    foundation_names: tuple[str, ...] = ()
    functionals: tuple[tuple[str, str], ...] = ()

    @property
    def is_plugin(self) -> bool:
        """Whether another package brings it."""
        return self.package != "pft_lightning"

    @property
    def requirement(self) -> str:
        """What to install, as pip takes it."""
        return f"{self.package}[{self.extra}]" if self.extra else self.package

    def owns(self, content: FileContent) -> bool:
        """Whether a file belongs to it; a plug-in that fails owns none."""
        if self.recognise is None:
            return content.path.name.endswith(self.endings)
        if not self.is_plugin:
            return self.recognise(content)
        try:
            return bool(self.recognise(content))
        except Exception as error:
            warnings.warn(
                f"Backend {self.name!r} of the package {self.package} failed to tell "
                f"whether {content.path} is its own ({_words(error)}); it is passed "
                f"over. Update {self.package}, or uninstall it.",
                stacklevel=2,
            )
            return False


def plugin_names(taken: Collection[str]) -> list[str]:
    """Names of installed plug-ins, sorted; none of them is imported.

    Args:
        taken: names that plug-ins cannot have.
    """
    return sorted({point.name for point in entry_points(group=GROUP)} - set(taken))


def load_plugins(taken: Collection[str]) -> dict[str, Backend]:
    """Plug-ins by name; those that cannot be used are left out with a warning.

    Args:
        taken: names that plug-ins cannot have.
    """
    found: dict[str, Backend] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, _package(p))):
        try:
            if point.name in taken:
                raise BackendUnavailableError(_unusable(point, "the name is taken"))
            if point.name in found:
                others = found[point.name].package
                reason = f"the package {others} brings one of this name, which is used"
                raise BackendUnavailableError(_unusable(point, reason))
            found[point.name] = _load(point)
        except BackendUnavailableError as error:
            warnings.warn(f"{error} It is left out.", stacklevel=2)
    return found


def load_plugin(name: str) -> Backend:
    """One plug-in, without the others.

    Args:
        name: among ``plugin_names``.

    Raises:
        BackendUnavailableError: it cannot be used.
    """
    points = sorted(entry_points(group=GROUP, name=name), key=_package)
    return _load(points[0])


def _load(point: EntryPoint) -> Backend:
    try:
        backend = point.load()
    except Exception as error:  # code of others fails in any way
        raise BackendUnavailableError(_unusable(point, _words(error))) from error
    if not isinstance(backend, Backend):
        reason = f"{point.value} is a {type(backend).__name__}, not a Backend"
        raise BackendUnavailableError(_unusable(point, reason))
    if reason := _fault(backend, point.name):
        raise BackendUnavailableError(_unusable(point, reason))
    return replace(backend, package=_package(point))


def _fault(backend: Backend, name: str) -> str:
    """What makes an entry of a plug-in useless, or nothing."""
    if backend.name != name:
        return f"its Backend is named {backend.name!r}"
    words = (backend.module, backend.kind)
    if not all(isinstance(word, str) and word for word in words):
        return "module and kind of its Backend are not both words"
    endings = backend.endings
    right = isinstance(endings, tuple) and all(
        isinstance(ending, str) and ending.startswith(".") for ending in endings
    )
    if not right:
        return f"endings={endings!r} is not a tuple of endings such as '.tiny'"
    if not endings and backend.recognise is None:
        return "it has neither endings nor recognise, so that no file is its own"
    return ""


def _unusable(point: EntryPoint, reason: str) -> str:
    package = _package(point)
    return (
        f"Backend {point.name!r} of the package {package} cannot be used: {reason}. "
        f"Update {package}, or uninstall it."
    )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}"
