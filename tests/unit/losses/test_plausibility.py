from __future__ import annotations

import pytest
import torch

from pft_lightning import keys
from pft_lightning.adaptation import Scratch
from pft_lightning.data.records import StructureRecord, to_data
from pft_lightning.graphs import build_batch, build_graph
from pft_lightning.losses import doubtful_labels
from pft_lightning.testing import PairPotential
from pft_lightning.training.module import PhononFineTuning


# Of a model whose curvature is off by as much as before any fine-tuning.
ERROR = 0.3


@pytest.fixture(scope="module")
def crystal():
    """Eight rattled structures, a model, and labels like its own but for an error."""
    generator = torch.Generator().manual_seed(0)
    model = PairPotential(4.0, (14,))
    data = []
    for volume in torch.linspace(0.9, 1.1, 8):
        cell = 4.0 * volume ** (1 / 3) * torch.eye(3, dtype=torch.float64)
        corners = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
        positions = torch.tensor(corners, dtype=torch.float64) @ cell
        positions += 0.1 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
        arrays = (positions.numpy(), cell.numpy(), [True] * 3)
        data.append(
            to_data(
                StructureRecord(
                    "x", torch.full((4,), 14).numpy(), *arrays,
                    energy=0.0, forces=positions.numpy(), stress=cell.numpy(),
                ),
                build_graph(*arrays, 4.0),
            )
        )  # fmt: skip
    batch = build_batch(data)
    with torch.no_grad():
        found = model.derivatives(batch)
    batch[keys.ENERGY] = found.energy + 0.5
    for name in (keys.FORCES, keys.STRESS):
        values = getattr(found, name)
        noise = torch.randn(values.shape, generator=generator, dtype=values.dtype)
        batch[name] = values + ERROR * values.std() * noise
    return model, batch


def doubts(crystal, **factors: float) -> list[str]:
    model, batch = crystal
    changed = batch.clone()
    for name, factor in factors.items():
        changed[name] = changed[name] * factor
    with torch.no_grad():
        return doubtful_labels(model.derivatives(changed), changed)


def test_labels_of_another_model_of_the_same_kind_raise_no_doubt(crystal):
    assert doubts(crystal) == []


@pytest.mark.parametrize(
    ("quantity", "factor", "words"),
    [
        ("stress", 160.21766, "Are they in GPa?"),
        ("stress", 1602.1766, "Are they in kbar?"),
        ("stress", -1602.1766, "in kbar and with the opposite sign"),
        ("stress", -1, "with the opposite sign"),
        ("stress", 1 / 183.63, "hartree/bohr³"),
        ("forces", 1 / 25.711, "Are they in Ry/bohr?"),
        ("forces", 1 / 51.422, "Are they in hartree/bohr?"),
        ("forces", 23.06, "kcal/mol/Å"),
        ("forces", -1, "a gradient"),
    ],
)
def test_other_units_and_signs_are_named(crystal, quantity, factor, words):
    (reason,) = doubts(crystal, **{quantity: factor})
    assert reason.startswith(f"the labels of {quantity} are ")
    assert words in reason
    named = float(reason.split(" are ")[1].split()[0])
    assert named == pytest.approx(factor, rel=0.2)


def test_energies_with_another_zero_are_told_in_ev_per_atom(crystal):
    model, batch = crystal
    shifted = batch.clone()
    shifted[keys.ENERGY] = shifted[keys.ENERGY] - 4 * 7888.0
    found = model.derivatives(shifted)
    (reason,) = doubtful_labels(found, shifted, weight="loss.upstream.{}")
    assert "half of the labels of energy differ by 7888 eV/atom or more" in reason
    assert "loss.upstream.energy=0" in reason


def test_labels_that_are_masked_raise_no_doubt(crystal):
    model, batch = crystal
    masked = batch.clone()
    masked[keys.STRESS] = masked[keys.STRESS] * 1602
    masked[keys.STRESS_MASK] = torch.zeros_like(masked[keys.STRESS_MASK])
    assert doubtful_labels(model.derivatives(masked), masked) == []


@pytest.mark.parametrize("stage", ["training", "validation"])
def test_a_training_warns_once_of_what_its_base_model_finds_absurd(
    crystal, stage, recwarn
):
    model, batch = crystal
    absurd = batch.clone()
    absurd[keys.STRESS] = absurd[keys.STRESS] * 1602
    for adaptation, expected in ((None, 1), (Scratch(), 0)):
        module = PhononFineTuning(model, adaptation=adaptation)
        for _ in range(2):
            module._judge_labels({keys.UPSTREAM: absurd}, stage)
        told = [
            str(w.message) for w in recwarn if "Are they in kbar?" in str(w.message)
        ]
        assert len(told) == expected
        assert all(text.startswith(f"Upstream {stage} data") for text in told)
        recwarn.clear()
