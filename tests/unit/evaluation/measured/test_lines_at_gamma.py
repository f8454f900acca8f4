"""Lines at Γ along a direction, or of a representation, beside phonopy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import pft_lightning as pft

from .conftest import start
from .test_measured import ROUNDING, phonon_of, values_of


BORN = "14.4\n2 0 0 0 2 0 0 0 2\n1 0 0 0 1 0 0 0 1\n-1 0 0 0 -1 0 0 0 -1\n"
LINES = """structure,q1,q2,q3,frequency,unit,degeneracy,direction,irrep
LiF,0,0,0,16,THz,,1 0 0,
LiF,0,0,0,8,THz,2,1 0 0,
LiF,0,0,0,8,THz,,,T1u
"""


def test_dipoles_and_symmetry_are_those_of_phonopy(inputs):
    Path("LiF/BORN").write_text(BORN)
    Path("polar.csv").write_text(LINES)
    start(values="measured.files=polar.csv")
    phonon = phonon_of("LiF", pft.load_model("true.pair", dtype="float64"))
    phonon.nac_params = {
        "born": np.array([1, -1])[:, None, None] * np.eye(3),
        "dielectric": 2 * np.eye(3),
        "factor": 14.39965172592227,
    }
    phonon.run_qpoints([[0, 0, 0]], nac_q_direction=[1, 0, 0])
    transverse, longitudinal = phonon.qpoints.frequencies[0][[3, 5]]
    assert longitudinal > transverse + 3
    found = values_of(Path("run"))
    places = [(row["q_point"], row["branch"]) for row in found]
    assert places == [("0,0,0 along 1,0,0", "")] * 2 + [("0,0,0", "T1u")]
    computed = [float(row["computed_model"]) for row in found]
    expected = [longitudinal, transverse, transverse]
    np.testing.assert_allclose(computed, expected, rtol=ROUNDING)
