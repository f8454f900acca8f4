"""``pft-evaluate task=force_constants`` from its configuration on."""

from __future__ import annotations

from pathlib import Path

import ase.io
import phonopy
import pytest
from ase.build import bulk
from hydra import compose, initialize_config_module

from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.runs.evaluate import check_evaluation, evaluate
from pft_lightning.testing import PairPotential


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PairPotential(4.0, (11, 17)).save(Path("true.pair"))
    ase.io.write("NaCl.cif", bulk("NaCl", "rocksalt", a=5.2, cubic=True))
    Path("cut.cif").write_text(Path("NaCl.cif").read_text()[:300])

    def start(*overrides: str):
        with initialize_config_module("pft_lightning.conf", version_base="1.3"):
            config = compose(
                "evaluate",
                overrides=[
                    *("task=force_constants", "paths.run=run", "accelerator=cpu"),
                    *("protocol.mesh=[2,2,2]", "protocol.band_points=0"),
                    *("model.checkpoint=true.pair", "progress=false", *overrides),
                ],
            )
        return evaluate(config)

    return start


def test_crystals_are_computed_and_failures_printed(run, capsys):
    found = run(
        "structures=[NaCl.cif,cut.cif]", "force_constants.supercell_matrix=[1,1,1]"
    )
    check_evaluation(found.summary)
    printed = capsys.readouterr().out
    assert "2 materials; failed: model 1" in printed
    assert "cut: DataFormatError: cut.cif" in printed
    phonon = phonopy.load(found.files / "NaCl" / "phonopy_params.yaml", log_level=0)
    assert phonon.force_constants.shape == (2, 8, 3, 3)
    assert "task: force_constants" in Path("run/config.yaml").read_text()


def test_a_run_without_a_single_crystal_is_an_error(run):
    found = run("structures=cut.cif")
    with pytest.raises(DataFormatError, match=r"none of 1 materials .*cut\.cif"):
        check_evaluation(found.summary)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "needs structures=PATH"),
        (("structures=a.cif", "phonons=b"), "phonons is given, and task=force_con"),
        (("structures=a.cif", "upstream=b"), "upstream is given"),
        (("structures=a.cif", "compare.x.checkpoint=b"), "compare is given"),
        (("structures=a.cif", "force_constants.formats=x"), "or a list of them"),
        (("structures=a.cif", "force_constants.formats=[]"), "or a list of them"),
        (("task=x",), "expected one of compare, trade_off"),
        (("structures=a.cif", "task=compare"), "what task=force_constants and"),
    ],
)
def test_what_has_no_meaning_without_a_reference_is_refused(run, overrides, message):
    with pytest.raises(ConfigError, match=message):
        run(*overrides)
    assert not Path("run").exists()
