"""What an evaluation remembers, what it does again, and what ends it."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones

import pft_lightning as pft
from pft_lightning.errors import ConfigError, RelaxationError, StorageError
from pft_lightning.evaluation import fingerprints, runner, task
from pft_lightning.evaluation.fingerprints import fingerprint
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.testing import PairPotential

from .conftest import CUTOFF, ELEMENTS, make_phonon


FAST = Protocol(mesh=(2, 2, 2), temperatures=(0.0, 100.0, 100.0), band_points=0)


@pytest.fixture(scope="module")
def model() -> PairPotential:
    return PairPotential(CUTOFF, ELEMENTS)


@pytest.fixture(scope="module")
def material(model):
    phonon = make_phonon("hcp")
    phonon.force_constants = pft.force_constants(model, phonon)
    return {"hcp": phonon}


def evaluate(model, material, out: Path | None, **options):
    options = {"protocol": FAST, "progress": False, **options}
    return pft.evaluate_phonons(model, material, out=out, **options)


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """Names of what was computed."""
    calls: list[str] = []
    original = runner.compute_phonons

    def counting(model, reference, *arguments, **options):
        calls.append(reference.unitcell.formula)
        return original(model, reference, *arguments, **options)

    monkeypatch.setattr(runner, "compute_phonons", counting)
    return calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_atoms": 0}, "max_atoms=0"),
        ({"engine": "foo"}, "engine='foo'.*reverse_over_reverse"),
        ({"protocol": Protocol(method="foo")}, "method='foo'.*hvp"),
    ],
)
def test_wrong_options_end_an_evaluation(model, material, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(model, material, tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [ConfigError("option=1"), StorageError("disk"), KeyboardInterrupt()]
)
def test_what_is_no_fault_of_a_material_ends_it_and_is_not_remembered(
    model, material, tmp_path, monkeypatch, computed, error
):
    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(runner, "compute_phonons", fail)
        with pytest.raises(type(error)):
            evaluate(model, material, tmp_path)
    assert not list(tmp_path.rglob("*.json"))
    assert evaluate(model, material, tmp_path).rows[0]["status"] == "ok"
    assert len(computed) == 1


def caused_by(cause: Exception) -> Exception:
    error = RelaxationError("it failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (MemoryError(), 2),
        (OSError(errno.EIO, "Input/output error"), 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2),
        (caused_by(OSError(errno.ENOSPC, "No space left on device")), 2),
        (RelaxationError("it exploded"), 1),
    ],
)
def test_only_failures_that_would_come_again_are_remembered(
    model, material, tmp_path, monkeypatch, error, tries
):
    calls = []

    def fail(*_, **__):
        calls.append(1)
        raise error

    monkeypatch.setattr(runner, "compute_phonons", fail)
    for _ in range(2):
        (row,) = evaluate(model, material, tmp_path).rows
        assert row["status"] == "failed"
        assert type(error).__name__ in row["error"]
    assert len(calls) == tries


def test_everything_that_changes_a_result_makes_it_again(
    model, material, tmp_path, monkeypatch, computed
):
    def times(**options) -> int:
        before = len(computed)
        evaluate(model, material, tmp_path, **options)
        return len(computed) - before

    assert (times(), times()) == (1, 0)
    assert times(max_atoms=30) == 0  # rounding
    assert times(engine="reverse_over_reverse") == 1
    assert times(protocol=Protocol(**{**vars_of(FAST), "mesh": (3, 3, 3)})) == 1
    shifted = {**vars_of(FAST), "mesh": (4, 4, 4), "is_gamma_center": False}
    assert times(protocol=Protocol(**shifted)) == 1
    assert times() == 1
    monkeypatch.setattr(task, "library_versions", lambda _: {"phonopy": "99"})
    assert times() == 1


def vars_of(protocol: Protocol) -> dict:
    return {name: getattr(protocol, name) for name in protocol.__slots__}


@pytest.mark.parametrize("name", ["hcp.json", "hcp.npz"])
@pytest.mark.parametrize("content", [b"", b"[1]", b'{"keys": 3}'])
def test_damaged_results_are_made_again(
    model, material, tmp_path, computed, name, content
):
    expected = evaluate(model, material, tmp_path).rows[0]
    file = tmp_path / "materials" / name
    good = file.read_bytes()
    file.write_bytes(content)
    row = evaluate(model, material, tmp_path).rows[0]
    assert len(computed) == 2
    assert row["entropy"] == expected["entropy"]
    assert abs(len(file.read_bytes()) - len(good)) < 100


def test_settings_that_are_no_weights_tell_models_apart(model) -> None:
    other = PairPotential(CUTOFF, ELEMENTS)
    assert fingerprint(other) == fingerprint(model)
    other.avg_num_neighbors = 12.5
    assert fingerprint(other) != fingerprint(model)
    assert fingerprint(model.to(torch.float32)) != fingerprint(model.to(torch.float64))


def test_calculators_are_told_apart_by_settings_weights_and_arrays() -> None:
    class Network(Calculator):
        def __init__(self, value: float, seed: int) -> None:
            super().__init__()
            self.scale = np.array([value])
            torch.manual_seed(seed)
            self.models = [torch.nn.Linear(2, 2)]

    found = [
        fingerprint(calculator)
        for calculator in (
            LennardJones(sigma=1.0),
            LennardJones(sigma=1.1),
            Network(1.0, 0),
            Network(1.1, 0),
            Network(1.0, 1),
        )
    ]
    assert len(set(found)) == 5
    assert fingerprint(Network(1.0, 0)) == found[2]
    used = Network(1.0, 0)
    used.results = {"energy": 1.0}
    assert fingerprint(used) == found[2]


def test_calculators_are_told_apart_by_what_their_engines_hold() -> None:
    class Engine:
        def __init__(self, factor: float) -> None:
            self.tables = {"factors": [factor]}
            self.owner = self  # does not end, looked into again and again

    class Wrapped(Calculator):
        def __init__(self, engine: object) -> None:
            super().__init__()
            self.engine = engine

    one, same, other = (fingerprint(Wrapped(Engine(x))) for x in (1.0, 1.0, 2.0))
    assert one == same != other
    assert fingerprint(Wrapped(np.sin)) != fingerprint(Wrapped(one))
    assert fingerprint(Wrapped(Engine)) != fingerprint(Wrapped(Wrapped))
    names = np.array(["CA", "N"])
    assert fingerprint(Wrapped(names)) != fingerprint(Wrapped(names[::-1].copy()))
    # What grows with the process and is no setting.
    logger = logging.getLogger("an engine")
    before = fingerprint(Wrapped(logger))
    logging.getLogger("an engine.another part").info("read")
    assert fingerprint(Wrapped(logger)) == before
    # Every object once: these have 2^40 paths from one to the last.
    engine = last = Engine(0.0)
    for _ in range(40):
        last.left = last.right = Engine(1.0)
        last = last.left
    assert fingerprint(Wrapped(engine)) != one


def test_versions_of_what_computes_are_part_of_the_key() -> None:
    assert {"phonopy", "symfc"} <= fingerprints.library_versions().keys()
    json.dumps(fingerprints.library_versions())
