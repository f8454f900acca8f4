"""What a model card says of weights that were found, and of functionals."""

from __future__ import annotations

from pft_lightning.backends.pair import PairPotential
from pft_lightning.runs.provenance import render_card


NOTHING = {"train": [], "val": []}


def card(run: dict | None = None, **told) -> str:
    provenance = {
        "file": {
            "name": "tuned.pt", "sha256": "0", "framework": "pair", "dtype": "float64",
            "cutoff": 4.0, "elements": ["Na", "Cl"], "heads": [], "head": None,
        },
        "created": "today",
        "citation": "https://arxiv.org/abs/2601.07742",
        "base_model": {"file": "base.pt", "sha256": "1"},
        "run": {
            "folder": "a", "checkpoint": "last.ckpt", "weights": "raw", "steps": 8,
            "trainable": None, **(run or {}),  # earlier versions have no more
        },
        "data": {"phonons": NOTHING, "upstream": NOTHING, "counts": None},
        "check": {"structures": ["NaCl"], "errors": {"energy": 0.0}, "remark": None},
        **told,
    }  # fmt: skip
    return render_card(provenance, PairPotential(4.0, (11, 17)))


def test_weights_that_were_found_are_named() -> None:
    text = card({"loss_weights": {"phonon_hvp": 242.08, "upstream_energy": 61.793}})
    sentence = "`auto` ended at 242.1 (phonon hvp), 61.79 (upstream energy)."
    assert sentence in " ".join(text.split())
    assert "`auto`" not in card()


def test_functionals_are_named_with_what_says_them() -> None:
    text = card(
        functionals={
            "model": {"name": "PBE(+U)", "stated_by": "foundation model 7net-0"},
            "phonons": {"name": "PBEsol", "stated_by": "set/INCAR"},
        }
    )
    assert (
        "Functionals: base model PBE(+U) (foundation model 7net-0), force constants "
        "PBEsol (set/INCAR)."
    ) in " ".join(text.split())
    assert "Functionals" not in card()
