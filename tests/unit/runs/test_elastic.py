"""``pft-evaluate task=elastic`` from its configuration on."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import ase.io
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from hydra import compose, initialize_config_module

import pft_lightning as pft
from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.elastic_runner import evaluate_elastic
from pft_lightning.evaluation.materials import Evaluated
from pft_lightning.runs.evaluate import check_evaluation, evaluate
from pft_lightning.testing import PairPotential


def entry(name: str, atoms: ase.Atoms, **moduli: float) -> dict:
    """Of a table, as pymatgen writes structures."""
    sites = [
        {"species": [{"element": symbol, "occu": 1.0}], "abc": list(place)}
        for symbol, place in zip(
            atoms.get_chemical_symbols(), atoms.get_scaled_positions(), strict=True
        )
    ]
    lattice = {"matrix": atoms.cell.array.tolist()}
    return {"mp_id": name, "structure": {"lattice": lattice, "sites": sites}, **moduli}


def alloy() -> ase.Atoms:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.numbers[0] = 79
    return atoms


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PairPotential(4.0, (29, 79)).save(Path("true.pair"))
    ase.io.write("alloy.cif", alloy())
    Path("cut.cif").write_text(Path("alloy.cif").read_text()[:300])

    def start(*overrides: str):
        with initialize_config_module("pft_lightning.conf", version_base="1.3"):
            config = compose(
                "evaluate",
                overrides=[
                    *("task=elastic", "protocol=mdr_analytic", "paths.run=run"),
                    *("accelerator=cpu", "protocol.fmax=1e-6", "progress=false"),
                    *("model.checkpoint=true.pair", *overrides),
                ],
            )
        return evaluate(config)

    return start


def rows_of_file() -> list[dict[str, str]]:
    with Path("run/per_material.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_gives_crystals_and_moduli_to_compare(run, capsys):
    exploding = alloy()
    exploding.set_cell(exploding.cell.array * 3, scale_atoms=True)
    partial = entry("shared", alloy())
    partial["structure"]["sites"][0]["species"][0]["occu"] = 0.5
    table = [
        entry("good", alloy(), bulk_modulus_vrh=50.0, shear_modulus_vrh=30.0),
        entry("no-moduli", alloy()),
        entry("shattered", exploding, bulk_modulus_vrh=1.0),
        partial,
        {"mp_id": "empty", "bulk_modulus_vrh": 3.0},
        entry("foreign", bulk("Al"), bulk_modulus_vrh=70.0),
    ]
    Path("table.json").write_text(json.dumps(table))
    found = run("structures=table.json", "reference=table.json")
    check_evaluation(found.summary)
    rows = {row["name"]: row for row in found.rows}
    good = rows["good"]
    assert good["bulk_modulus_error"] == good["bulk_modulus"] - 50.0
    assert good["shear_modulus_error"] == good["shear_modulus"] - 30.0
    # Relaxed to 1e-6 eV/Å: of the order of that over the area of the cell.
    assert good["max_stress"] < 1e-3
    assert good["volume_ratio"] < 0.99
    assert "bulk_modulus_error" not in rows["no-moduli"]
    totals = found.summary["models"]["model"]
    assert totals["bulk_modulus"]["n"] == totals["shear_modulus"]["n"] == 1
    assert totals["bulk_modulus"]["mean"] == abs(good["bulk_modulus_error"])
    failures = {f["name"]: f["error"] for f in found.summary["failures"]}
    assert set(failures) == {"shattered", "shared", "empty", "foreign"}
    assert "partly occupied" in failures["shared"]
    assert "table.json, entry 4: has no structure" in failures["empty"]
    assert "UnknownElementError" in failures["foreign"]
    printed = capsys.readouterr().out
    assert "6 materials; failed: model 4" in printed
    assert "partly occupied" in Path("run/report.html").read_text()
    written = {row["name"]: row for row in rows_of_file()}
    assert float(written["good"]["C12"]) == good["relaxed"][0][1]
    stored = json.loads(Path("run/materials/good.json").read_text())
    assert len(stored["models"]["model"]["clamped"]) == 6


def test_a_second_call_computes_nothing_that_is_there(run, monkeypatch):
    first = run("structures=[alloy.cif,cut.cif]")

    def never(*args, **options):
        raise AssertionError("computed again")

    module = "pft_lightning.evaluation.elastic_runner"
    monkeypatch.setattr(f"{module}.elastic_constants", never)
    again = run("structures=[alloy.cif,cut.cif]")
    assert again.rows == first.rows
    assert [f["name"] for f in again.summary["failures"]] == ["cut"]


def test_a_pressed_cell_is_taken_as_it_is_and_its_stress_is_named(run):
    pressed = alloy()
    pressed.set_cell(pressed.cell.array * 0.95, scale_atoms=True)
    ase.io.write("pressed.cif", pressed)
    found = run("structures=pressed.cif", "protocol=dft_cell")
    (row,) = found.rows
    assert row["max_stress"] > 5
    assert row["relax_steps"] == 0
    model = pft.load_model("true.pair", dtype="float64")
    alone = pft.elastic_constants(model, ase.io.read("pressed.cif"))
    assert row["bulk_modulus"] == pytest.approx(alone.moduli.bulk, rel=1e-6)


WHOLE = json.dumps([entry("alloy", alloy(), bulk_modulus_vrh=50.0)]).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON"),
        (b"{}", "holds a dict"),
        (b"[1.5]", "entry 0 is of type float"),
        (WHOLE[:-40], "cannot be read as JSON .* truncated"),
        (gzip.compress(WHOLE)[:-30], "ends early .* truncated"),
        (b"name,bulk_modulus_vrh\nalloy,50\n", "no table of elastic moduli"),
        (bytes(range(256)), "no table of elastic moduli"),
    ],
)
@pytest.mark.parametrize("option", ["reference", "structures"])
def test_what_is_no_table_is_refused(run, content, message, option):
    Path("table.json").write_bytes(content)
    structures = ("structures=alloy.cif",) if option == "reference" else ()
    with pytest.raises(DataFormatError, match=message) as error:
        run(*structures, f"{option}=table.json")
    assert "table.json" in str(error.value)
    assert not list(Path("run").glob("materials/*"))


def test_a_table_that_is_not_there_or_has_no_moduli_is_named(run):
    Path("table.json").write_text("[{}]")
    with pytest.raises(DataFormatError, match=r"table\.json: no entry has"):
        run("structures=alloy.cif", "reference=table.json")
    with pytest.raises(DataFormatError, match=r"nothing\.json: does not exist"):
        run("structures=alloy.cif", "reference=nothing.json")


def test_what_is_no_crystal_is_named_and_the_others_go_on(run):
    boxed = molecule("H2O", cell=(8, 8, 8))
    slab = fcc111("Cu", (1, 1, 2), vacuum=6)
    slab.info.clear()
    ase.io.write("water.xyz", molecule("H2O"))
    ase.io.write("boxed.extxyz", boxed)
    ase.io.write("slab.extxyz", slab)
    files = "alloy.cif,water.xyz,boxed.extxyz,slab.extxyz"
    found = run(f"structures=[{files}]", "protocol=dft_cell")
    assert [row["status"] for row in found.rows] == ["ok", *["failed"] * 3]
    failures = {f["name"]: f["error"] for f in found.summary["failures"]}
    for name, n_axes in {"water.xyz": 0, "boxed.extxyz": 0, "slab.extxyz": 2}.items():
        reason = failures[Path(name).stem]
        assert f"{name}: is periodic along {n_axes} axes; expected a crystal" in reason
        assert "\n" not in reason


def test_entries_without_a_crystal_are_named_in_one_line(run):
    lonely = entry("molecule", alloy())
    del lonely["structure"]["lattice"]
    flat = entry("slab", alloy())
    flat["structure"]["lattice"]["pbc"] = [True, True, False]
    unknown = entry("unknown", alloy())
    unknown["structure"]["sites"][0]["species"][0]["element"] = "Xx"
    crowded = entry("crowded", alloy())
    crowded["structure"]["sites"][1]["abc"] = [0.0, 0.0, 0.0]
    good = entry("good", bulk("Cu", "fcc", a=3.4))
    table = [lonely, flat, unknown, crowded, good]
    Path("table.json").write_text(json.dumps(table))
    found = run("structures=table.json", "protocol=dft_cell")
    failures = {row["name"]: row["error"] for row in found.rows[:-1]}
    assert set(failures) == {"molecule", "slab", "unknown", "crowded"}
    for name in ("molecule", "slab"):
        assert "not periodic along three axes; expected a crystal" in failures[name]
    assert "two atoms of the unit cell are 0 Å apart" in failures["crowded"]
    for reason in failures.values():
        assert reason.startswith("DataFormatError: table.json, entry ")
        assert "\n" not in reason
    assert found.rows[-1]["status"] == "ok"


def test_an_element_without_a_mass_in_phonopy_is_no_obstacle(run):
    PairPotential(4.0, (8, 94)).save(Path("actinide.pair"))
    oxide = bulk("PuO", "rocksalt", a=4.2)
    Path("table.json").write_text(json.dumps([entry("oxide", oxide)]))
    ase.io.write("oxide.cif", oxide)
    options = ("protocol=dft_cell", "model.checkpoint=actinide.pair")
    from_table = run("structures=table.json", *options).rows[0]
    from_file = run("structures=oxide.cif", *options).rows[0]
    assert from_table["status"] == "ok"
    assert from_table["bulk_modulus"] == pytest.approx(
        from_file["bulk_modulus"], rel=1e-6
    )
    # A file of phonopy has masses, and says so where they are missing.
    points = "".join(
        f"  - {{symbol: {symbol}, coordinates: [{x}, {x}, {x}]}}\n"
        for symbol, x in (("Pu", 0.0), ("O", 0.5))
    )
    lattice = "unit_cell:\n  lattice: [[0, 2.1, 2.1], [2.1, 0, 2.1], [2.1, 2.1, 0]]\n"
    Path("oxide.yaml").write_text(f"{lattice}  points:\n{points}")
    (row,) = run("structures=oxide.yaml", *options).rows
    assert "Give every atom of unit_cell.points its own in u" in row["error"]


@pytest.fixture
def compared(run):
    """Two models on two crystals; one of them lets every crystal fly apart."""
    model = PairPotential(4.0, (29, 79))
    with torch.no_grad():
        model.depth *= -1  # repulsion
    model.save(Path("repelling.pair"))
    ase.io.write("copper.cif", bulk("Cu", "fcc", a=3.55, cubic=True))
    return lambda *more: run(
        "structures=[alloy.cif,copper.cif]",
        "compare.repelling.checkpoint=repelling.pair",
        "protocol.fmax=1e-3",
        *more,
    )


def test_a_model_that_lets_cells_fall_apart_loses_nothing_of_the_other(compared):
    found = compared()
    rows = {(row["name"], row["model"]): row for row in found.rows}
    assert len(rows) == 4
    for name in ("alloy", "copper"):
        assert rows[name, "model"]["bulk_modulus"] > 0
        lost = rows[name, "repelling"]
        assert lost["status"] == "failed"
        assert "RelaxationError: the relaxation exploded" in lost["error"]
        assert "volume is" in lost["error"]
    assert found.summary["counts"]["failed"] == {"repelling": 2, "model": 0}
    with pytest.raises(DataFormatError, match="repelling failed on every one of 2"):
        check_evaluation(found.summary)
    # Another run has the same, and tries no relaxation again that exploded.
    assert compared().rows == found.rows


def test_processes_share_the_crystals_with_all_models(run, monkeypatch):
    ase.io.write("copper.cif", bulk("Cu", "fcc", a=3.4))
    models = {
        "short": PairPotential(3.5, (29, 79)),
        "long": PairPotential(4.0, (29, 79)),
    }
    options = {"protocol": "dft_cell", "progress": False}

    def compute(out: str) -> Evaluated:
        return evaluate_elastic(models, ["alloy.cif", "copper.cif"], out, **options)

    whole = compute("whole")
    assert [row["status"] for row in whole.rows] == ["ok"] * 4
    sent = json.loads(Path("whole/materials/alloy.json").read_text())
    monkeypatch.setattr(processes, "rank", lambda: (1, 2))
    monkeypatch.setattr(processes, "gather", lambda own: [{"alloy": sent}, own])
    shared = compute("shared")
    # This process has the second crystal, and leaves the totals to the first.
    assert [file.name for file in Path("shared").rglob("*.*")] == ["copper.json"]

    def timeless(rows):
        return [{**row, "seconds": None} for row in rows]

    assert timeless(shared.rows) == timeless(whole.rows)
    assert shared.summary["failures"] == whole.summary["failures"]


def test_a_crystal_that_gives_way_is_named_and_enters_no_mean(run):
    # Central forces hold no simple cubic lattice against shear.
    soft = bulk("Cu", "sc", a=2.5)
    Path("table.json").write_text(
        json.dumps([entry("soft", soft, bulk_modulus_vrh=50.0)])
    )
    found = run("structures=table.json", "reference=table.json", "protocol=dft_cell")
    (row,) = found.rows
    assert row["status"] == "ok"
    assert not row["born_stable"]
    totals = found.summary["models"]["model"]
    assert totals["bulk_modulus"]["n"] == 0
    assert totals["unstable"] == 1
    (failure,) = found.summary["failures"]
    assert "unstable: a strain lowers the energy (-" in failure["error"]


def test_options_of_other_tasks_are_refused(run):
    with pytest.raises(ConfigError, match="needs structures=PATH"):
        run()
    with pytest.raises(ConfigError, match="protocol=matbench"):
        run("structures=alloy.cif", "protocol=matbench")
    with pytest.raises(ConfigError, match="and task=elastic"):
        run("task=force_constants", "structures=alloy.cif", "reference=table.json")


def test_a_model_that_is_compared_later_is_the_only_one_computed(run, monkeypatch):
    first = run("structures=alloy.cif")
    PairPotential(4.2, (29, 79)).save(Path("other.pair"))
    module = "pft_lightning.evaluation.elastic_runner"
    seen = []

    def count(model, *args, **options):
        seen.append(model)
        return pft.elastic_constants(model, *args, **options)

    monkeypatch.setattr(f"{module}.elastic_constants", count)
    both = run("structures=alloy.cif", "compare.other.checkpoint=other.pair")
    assert len(seen) == 1
    assert {row["model"] for row in both.rows} == {"model", "other"}
    assert first.rows[0] in both.rows
