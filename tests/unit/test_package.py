from __future__ import annotations

from importlib.metadata import version

import pytest

import pft_lightning
from pft_lightning.runs.folder import collect_versions


def test_dir_shows_the_public_names_and_no_helper():
    shown = {name for name in dir(pft_lightning) if not name.startswith("__")}
    assert shown == set(pft_lightning.__all__)
    assert "__version__" in dir(pft_lightning)


def test_the_version_is_that_of_the_distribution_and_of_the_provenance_of_runs():
    assert pft_lightning.__version__ == version("pft_lightning")
    assert pft_lightning.__version__ == collect_versions()["pft_lightning"]


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'load_modle'"):
        pft_lightning.load_modle  # noqa: B018
