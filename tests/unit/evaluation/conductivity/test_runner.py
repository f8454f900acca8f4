"""Conductivities of models on crystals: files, scores, failures, resuming, sharing."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import re

import numpy as np
import pytest

from pft_lightning.backends.calculator import Calculator
from pft_lightning.data import third_order
from pft_lightning.errors import BackendUnavailableError, ConfigError
from pft_lightning.evaluation import processes, task
from pft_lightning.evaluation.conductivity import stages
from pft_lightning.evaluation.conductivity.reference import read_conductivities
from pft_lightning.evaluation.conductivity.runner import evaluate_conductivity
from pft_lightning.evaluation.conductivity.score import compute_score

from .conftest import row_of
from .crystals import PROTOCOL, frame, needs_phono3py, potential, write_frames


AS_IT_IS = dataclasses.replace(PROTOCOL, relax=False)


def softer():
    model = potential()
    model.stiffness.data *= 0.95
    return model


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The table of a softer potential, which plays the part of DFT."""
    needs_phono3py()
    folder = tmp_path_factory.mktemp("dft")
    structures = write_frames(folder / "dft.xyz", frame())
    found = evaluate_conductivity(
        softer(), structures, folder / "out", protocol=AS_IT_IS, progress=False
    )
    path = found.leaderboard["model"]
    (crystal,) = read_conductivities(path).values()
    row = {**row_of(crystal.conductivity), "q_mesh": [3, 3, 3], "symm.no": 221}
    table = {column: {"0": value} for column, value in row.items()}
    file = folder / "dft.json.gz"
    file.write_bytes(gzip.compress(json.dumps(table).encode()))
    return file


@pytest.fixture
def evaluate(reference, tmp_path):
    def run(*frames, models=None, out=tmp_path / "out", **options):
        path = write_frames(tmp_path / "structures.xyz", *(frames or (frame(),)))
        options = {"reference": reference, "protocol": AS_IT_IS, **options}
        return evaluate_conductivity(
            potential() if models is None else models,
            path,
            out,
            progress=False,
            **options,
        )

    return run


def test_tables_for_the_leaderboard_are_those_of_this_evaluation(evaluate):
    first = evaluate(models={"old": softer(), "kept": potential()})
    again = evaluate(models={"kept": potential()})
    assert not first.leaderboard["old"].exists()
    assert again.leaderboard["kept"].is_file()


def test_a_model_against_itself_has_no_error_and_another_has_one(evaluate):
    found = evaluate(models={"same": softer(), "other": potential()})
    same, other = found.rows
    # Zero up to the rounding of a relaxation that is the same.
    assert same["srme"] < 1e-9
    assert other["srme"] > 0.01
    assert 0 <= other["sre"] <= other["srme"] <= 2
    assert other["kappa"] == pytest.approx(
        other["kappa_particle"] + other["kappa_coherence"], rel=1e-12
    )
    assert (same["outcome"], same["structure_type"]) == ("computed", "caesium chloride")
    assert (same["space_group"], same["relaxed_space_group"]) == (221, 221)
    assert (same["fc2_displacements"], same["fc3_displacements"]) == (2, 42)
    totals = found.summary["models"]["other"]
    assert totals["srme"]["mean"] == other["srme"]
    assert totals["by_structure"]["caesium chloride"]["srme"]["n"] == 1
    assert totals["failed"] == totals["imaginary"] == 0


def test_everything_that_a_report_needs_is_in_the_files(evaluate):
    found = evaluate()
    stored = json.loads((found.folder / "metrics.json").read_text())
    (material,) = stored["materials"]
    assert material["kappa"] == found.rows[0]["kappa"]
    assert material["reference_kappa"] > 0
    assert stored["protocol"]["transport_type"] == "SMM19"
    (spectrum,) = stored["worst"]["model"]
    width = spectrum["frequencies"][1] - spectrum["frequencies"][0]
    densities = {"kappa": spectrum["models"]["model"]}
    densities["reference_kappa"] = spectrum["reference"]
    for kappa, density in densities.items():
        total = sum(density) * width
        assert total == pytest.approx(material[kappa], rel=1e-9)
    (row,) = csv.DictReader((found.folder / "per_material.csv").open())
    assert float(row["srme"]) == material["srme"]


def test_the_file_of_the_leaderboard_gives_the_same_scores(evaluate, reference):
    unstable = frame("mp-2", a=2.9, name="other")
    found = evaluate(frame(), unstable)
    path = found.leaderboard["model"]
    table = json.loads(gzip.decompress(path.read_bytes()))
    assert table["has_imag_ph_modes"] == {"0": False, "1": True}
    assert table["kappa_tot_rta"]["1"] is None
    with pytest.warns(UserWarning, match="row 1.*not finite"):
        (crystal,) = read_conductivities(path).values()
    (dft,) = read_conductivities(reference).values()
    score = compute_score(crystal.conductivity, dft.conductivity)
    assert score.srme == pytest.approx(found.rows[0]["srme"], rel=1e-12)
    tensor = np.array(table["kappa_tot_rta"]["0"])
    assert tensor.shape == (1, 6)
    assert tensor[0, :3].mean() == pytest.approx(crystal.conductivity.kappa, rel=1e-12)


class Broken(Calculator):
    """Sound in small cells, and NaN in a supercell."""

    def calculate(self, *arguments, **keywords):
        super().calculate(*arguments, **keywords)
        if len(self.atoms) > 2:
            self.results["forces"][1, 2] = np.nan


def rattled():
    atoms = frame()
    atoms.positions[0, 0] += 0.003
    return atoms


@pytest.mark.parametrize(
    ("case", "outcome", "why"),
    [
        ("unstable", "imaginary", "imaginary frequencies, the lowest -2"),
        ("symmetry", "broken symmetry", "from space group 99 to 221"),
        ("NaN", "failed", "forces are not finite in 2 of 2"),
        ("mesh", "failed", r"mesh of q-points is \[4, 4, 4\]"),
        ("supercell", "failed", "fc3_supercell"),
    ],
)
def test_what_fails_has_the_worst_scores_and_a_reason_and_the_others_go_on(
    evaluate, case, outcome, why
):
    bad = {
        "unstable": frame(a=2.9),
        "symmetry": rattled(),
        "NaN": frame(),
        "mesh": frame(q_mesh=np.array([4, 4, 4])),
        "supercell": frame(fc3_supercell=np.array([2, 2])),
    }[case]
    model = Broken(potential()) if case == "NaN" else potential()
    frames = [bad] if case == "NaN" else [bad, frame("mp-2")]
    protocol = PROTOCOL if case == "symmetry" else AS_IT_IS
    found = evaluate(*frames, models=model, protocol=protocol)
    row, *others = found.rows
    assert row["outcome"] == outcome
    assert re.search(why, row["reason"])
    assert (row["srme"], row["sre"], row["srd"]) == (2, 2, -2)
    assert [other["outcome"] for other in others] == ["computed"] * (len(frames) - 1)
    (failure,) = found.summary["failures"]
    assert failure["name"] == "mp-1"
    assert re.search(why, failure["error"])
    table = json.loads(gzip.decompress(found.leaderboard["model"].read_bytes()))
    assert bool(table["errors"]["0"]) == (outcome == "failed")


def without_mesh(reference, folder):
    table = json.loads(gzip.decompress(reference.read_bytes()))
    del table["q_mesh"]
    path = folder / "without.json.gz"
    path.write_bytes(gzip.compress(json.dumps(table).encode()))
    return path


def test_a_crystal_under_the_name_of_another_fails_and_has_no_score(evaluate):
    other = frame()
    other.symbols = "NaCl"
    bad, good = evaluate(other, frame("mp-2")).rows
    assert bad["outcome"] == "failed"
    assert "this is ClNa, and mp-1 of the reference is MgO" in bad["reason"]
    assert bad["srme"] is None
    assert good["outcome"] == "computed"


def test_a_reference_on_other_points_is_no_fault_of_the_model(
    evaluate, reference, tmp_path
):
    path = without_mesh(reference, tmp_path)
    with pytest.warns(UserWarning, match="not compared with mp-1"):
        found = evaluate(frame(q_mesh=np.array([4, 4, 4])), reference=path)
    (row,) = found.rows
    assert row["outcome"] == "computed"
    assert row["kappa"] > 0
    assert row["srme"] is None
    assert "the mesh, the primitive cell or the symmetry is another" in row["reason"]
    table = json.loads(gzip.decompress(found.leaderboard["model"].read_bytes()))
    assert table["kappa_tot_avg"]["0"] == [row["kappa"]]
    corrected = evaluate(frame(), reference=path)
    assert corrected.rows[0]["srme"] > 0


def test_a_frame_that_cannot_be_used_is_scored_by_its_name(evaluate):
    flat = frame()
    flat.cell[2] = flat.cell[1]
    bad, good = evaluate(flat, frame("mp-2")).rows
    assert (bad["outcome"], bad["srme"]) == ("failed", 2)
    assert good["outcome"] == "computed"


def test_a_reference_that_would_be_overwritten_is_refused(evaluate):
    found = evaluate()
    with pytest.raises(ConfigError, match="would write or remove"):
        evaluate(reference=found.leaderboard["model"])
    assert found.leaderboard["model"].is_file()


def test_conductivities_of_another_protocol_are_not_those_of_a_row(evaluate):
    first = evaluate()
    kept = first.leaderboard["model"].read_bytes()
    record = first.folder / "materials" / "mp-1.json"
    text = record.read_text()
    evaluate(protocol=dataclasses.replace(AS_IT_IS, temperature=600.0), reference=None)
    record.write_text(text)  # as if that had been interrupted before it was written
    again = evaluate()
    assert again.rows[0]["kappa"] == first.rows[0]["kappa"]
    assert again.leaderboard["model"].read_bytes() == kept


def test_other_versions_of_libraries_compute_all_stages_again(
    evaluate, counted, monkeypatch
):
    calls, _ = counted
    evaluate()
    versions = task.library_versions()
    monkeypatch.setattr(
        task, "library_versions", lambda *_: {**versions, "phono3py": "99"}
    )
    evaluate()
    assert calls == [2, 42] * 2


def test_without_a_reference_nothing_is_scored(evaluate):
    found = evaluate(frame(), reference=None)
    (row,) = found.rows
    assert row["kappa"] > 0
    assert (row["srme"], row["reference_kappa"]) == (None, None)
    assert found.summary["models"]["model"]["srme"]["n"] == 0
    assert found.summary["worst"] == {"model": []}


def test_a_crystal_alone_takes_the_mesh_of_the_reference_that_it_matches(evaluate):
    alone = frame(None, q_mesh=None, name="something")
    (row,) = evaluate(alone).rows
    assert row["reference_name"] == "mp-1"
    assert 0 < row["srme"] < 2


@pytest.fixture
def counted(monkeypatch):
    """Orders whose forces were computed; one of them can be interrupted."""
    calls: list[int] = []
    original = stages.displaced_forces

    def compute(model, supercell, positions, *arguments):
        calls.append(len(positions))
        if compute.interrupted == len(positions):
            raise KeyboardInterrupt
        return original(model, supercell, positions, *arguments)

    compute.interrupted = None
    monkeypatch.setattr(stages, "displaced_forces", compute)
    return calls, compute


def test_an_interrupted_material_goes_on_with_the_stage_that_it_was_in(
    evaluate, counted, monkeypatch
):
    calls, compute = counted
    compute.interrupted = 42  # displacements of third order
    with pytest.raises(KeyboardInterrupt):
        evaluate(reference=None, protocol=PROTOCOL)
    compute.interrupted = None
    with monkeypatch.context() as context:
        context.setattr(stages, "relax_crystal", None)
        found = evaluate(reference=None, protocol=PROTOCOL)
    assert calls == [2, 42, 42]
    whole = evaluate(
        reference=None, protocol=PROTOCOL, out=found.folder.parent / "at once"
    )
    assert found.rows[0]["kappa"] == whole.rows[0]["kappa"]


def test_what_is_finished_is_not_computed_again_and_what_changed_is(evaluate, counted):
    calls, _ = counted
    first = evaluate(reference=None, protocol=PROTOCOL)
    assert calls == [2, 42]
    evaluate(reference=None, protocol=PROTOCOL)
    assert calls == [2, 42]
    # Another temperature needs no forces, a reference nothing but its score.
    warm = dataclasses.replace(PROTOCOL, temperature=600.0)
    warmer = evaluate(reference=None, protocol=warm)
    assert calls == [2, 42]
    assert warmer.rows[0]["kappa"] < first.rows[0]["kappa"]
    scored = evaluate(protocol=PROTOCOL)
    assert calls == [2, 42]
    assert scored.rows[0]["srme"] > 0
    assert scored.rows[0]["kappa"] == first.rows[0]["kappa"]
    # Another displacement needs forces, in the crystal that was relaxed.
    evaluate(protocol=dataclasses.replace(PROTOCOL, displacement=0.02))
    assert calls == [2, 42, 2, 42]
    evaluate(models=softer(), protocol=PROTOCOL)
    assert calls == [2, 42] * 3


@pytest.mark.parametrize("file", ["relaxed.json", "fc2.npz", "fc3.npz", "kappa.npz"])
def test_a_damaged_file_of_a_stage_is_made_again(evaluate, counted, file):
    first = evaluate()
    stage = first.folder / "materials" / "mp-1" / "model-model" / file
    for other in ("kappa.npz", file):
        (stage.parent / other).write_bytes(stage.read_bytes()[:20])
    (first.folder / "materials" / "mp-1.json").unlink()
    again = evaluate()
    assert again.rows[0]["kappa"] == pytest.approx(first.rows[0]["kappa"], rel=1e-9)
    expected = {"fc2.npz": [2], "fc3.npz": [42]}.get(file, [])
    assert counted[0] == [2, 42, *expected]


def test_forces_of_fewer_displacements_are_not_taken(evaluate, counted):
    first = evaluate()
    folder = first.folder / "materials" / "mp-1" / "model-model"
    with np.load(folder / "fc3.npz") as stored:
        arrays = dict(stored)
    np.savez(folder / "fc3.npz", **{**arrays, "forces": arrays["forces"][:-1]})
    (folder / "kappa.npz").unlink()
    again = evaluate()
    assert counted[0] == [2, 42, 42]
    assert again.rows[0]["kappa"] == first.rows[0]["kappa"]


def test_processes_share_the_crystals(evaluate, tmp_path, monkeypatch):
    frames = (frame(), frame("mp-2", name="other"))
    first = evaluate(frames[0])  # what the other process would send
    sent = json.loads((first.folder / "materials" / "mp-1.json").read_text())
    monkeypatch.setattr(processes, "rank", lambda: (1, 2))
    monkeypatch.setattr(processes, "gather", lambda own: [{"mp-1": sent}, own])
    out = tmp_path / "shared"
    found = evaluate(*frames, out=out)
    assert not (out / "materials" / "mp-1").exists()
    assert (out / "materials" / "mp-2").is_dir()
    assert [row["name"] for row in found.rows] == ["mp-1", "mp-2"]


def test_a_calculator_of_ase_gives_the_same_conductivity(evaluate, tmp_path):
    own = evaluate()
    other = evaluate(models=Calculator(potential()), out=tmp_path / "ase")
    assert other.rows[0]["kappa"] == pytest.approx(own.rows[0]["kappa"], rel=1e-9)


def test_nothing_begins_without_phono3py(monkeypatch, tmp_path):
    monkeypatch.setattr(third_order, "version", lambda name: "3.1.0")
    with pytest.raises(BackendUnavailableError, match=r"3\.1\.0 is too old"):
        evaluate_conductivity(potential(), "nothing.xyz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_be_are_refused_before_anything(evaluate):
    with pytest.raises(ConfigError, match="matbench, k_srme"):
        evaluate(protocol="mdr")
    with pytest.raises(ConfigError, match=r"temperature=350.*300 K"):
        evaluate(protocol=dataclasses.replace(PROTOCOL, temperature=350.0))
    with pytest.raises(ConfigError, match="label"):
        evaluate(models={"a/b": potential()})
