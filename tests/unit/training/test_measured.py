"""Losses on measured values: their gradients, and what a potential learns from them."""

from __future__ import annotations

import ase.io
import lightning
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from pft_lightning import MeasuredSource, PhononDataModule, PhononSource, keys
from pft_lightning.backends.pair import PairPotential
from pft_lightning.callbacks import MeasuredLoss
from pft_lightning.data.measured.source import MeasuredValues
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import ConfigError
from pft_lightning.graphs import build_batch
from pft_lightning.losses.properties import MEASURABLE, PropertyErrors
from pft_lightning.physics.property_probes import PropertyProbe
from pft_lightning.training.measured import compare_measured
from pft_lightning.training.module import PhononFineTuning
from pft_lightning.training.splitting import Work
from tests.conftest import (
    CRYSTALS,
    CUTOFF,
    ELEMENTS,
    hessian_of,
    phonon_of,
    true_potential,
)


ERRORS = PropertyErrors(kind="mse", smearing=0.5)
FREQUENCIES = "structure,q1,q2,q3,frequency,unit,branch,degeneracy,uncertainty"
# Of rock salt: a dielectric tensor, and charges of both ions.
BORN = """14.4
2 0 0 0 2 0 0 0 2
1 0 0 0 1 0 0 0 1
-1 0 0 0 -1 0 0 0 -1
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with two crystals, and values that no potential has."""
    folder = tmp_path_factory.mktemp("measured")
    for name in ("LiF", "Si"):
        (folder / name).mkdir()
        ase.io.write(folder / name / "POSCAR", CRYSTALS[name])
    (folder / "modes.csv").write_text(
        "\n".join(
            [
                FREQUENCIES,
                "LiF,0,0,0,260,cm-1,TO,2,10",
                "LiF,1/3,2/3,0,30,meV,,,2",
                "LiF,1/3,2/3,0,6.5,THz,,2,0.2",
                "Si,1/2,1/2,1/2,3.4,THz,1,2,",
            ]
        )
    )
    polar = ["LiF,0,0,0,11,THz,LO,,,1 0 0", "LiF,0,0,0,8,THz,TO,2,,1 0 0"]
    (folder / "polar.csv").write_text("\n".join([f"{FREQUENCIES},direction", *polar]))
    (folder / "LiF" / "BORN").write_text(BORN)
    symmetry = [f"{FREQUENCIES},irrep", "Si,0,0,0,15,THz,,,,T2g"]
    (folder / "symmetry.csv").write_text("\n".join(symmetry))
    head = "structure,temperature,{},unit"
    for quantity, unit, of_both in (
        ("heat_capacity", "J/K/g", (0.3, 1.3)),
        ("entropy", "J/K/mol-atom", (1.0, 15.0)),
        ("free_energy", "kJ/mol-formula", (10.0, 4.0)),
    ):
        values = zip((80, 300), of_both, strict=True)
        lines = [f"LiF,{temperature},{value},{unit}" for temperature, value in values]
        table = folder / f"{quantity}.csv"
        table.write_text("\n".join([head.format(quantity), *lines]))
    (folder / "LiF" / "total_dos.dat").write_text(
        "\n".join(f"{f:.1f} {f * f * (9 - f):.3f}" for f in np.arange(0, 9.1, 0.5))
    )
    return folder


def values_of(folder, **options) -> MeasuredValues:
    options = {"supercell": SupercellOptions(min_length=6.0), "mesh": 20.0} | options
    return MeasuredValues(str(folder), str(folder), CUTOFF, **options)


def batch_of(values: MeasuredValues, *indices: int):
    structures = []
    for index in indices:
        structures.append(values.data(index))
        structures[-1][keys.COUNTED] = torch.tensor([True])
    return build_batch(structures)


def loss_of(model, batch) -> float:
    (quantity,) = batch[keys.QUANTITY]
    found = compare_measured(model, batch, ERRORS, {quantity: 1.0})
    return found.losses[quantity]


NAMES = [
    "LiF q=0,0,0",
    "LiF q=0,0,0 along 1,0,0",
    "LiF q=1/3,2/3,0",
    "Si q=0,0,0",
    "Si q=1/2,1/2,1/2",
    *(f"LiF {quantity}" for quantity in MEASURABLE[1:]),
]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_to_the_weights_are_central_differences(measured, name):
    """Of the second pass along all directions; modes are degenerate and assigned."""
    values = values_of(measured)
    assert sorted(values.names) == sorted(NAMES)
    batch = batch_of(values, values.names.index(name))
    model = PairPotential(CUTOFF, ELEMENTS)
    (quantity,), (layout,) = batch[keys.QUANTITY], batch[keys.FORCE_CONSTANTS]
    found = compare_measured(model, batch, ERRORS, {quantity: 1.0})
    n_atoms = layout.n_atoms
    unit = np.eye(3 * n_atoms).reshape(n_atoms, 3, -1).transpose(0, 2, 1)
    tangents, cotangents = found.directions(layout, unit)
    hvp = model.derivatives(batch, tangents=torch.from_numpy(tangents)).hvp
    total = (torch.from_numpy(cotangents) * hvp).sum()
    weights = [model.depth, model.stiffness, model.radius]
    gradients = torch.autograd.grad(total, weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        direction = torch.linspace(0.5, 1, len(weight), dtype=torch.float64)
        expected = difference(model, weight, direction, batch)
        along = float((gradient * direction).sum())
        loss = found.losses[quantity]
        assert along == pytest.approx(expected, rel=1e-6, abs=1e-7 * loss)
    assert max(float(g.abs().max()) for g in gradients) > 0


def difference(model, weight, direction, batch) -> float:
    """Central difference along a direction, of the fourth order in its step."""

    def of_step(step: float) -> float:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(direction, alpha=sign * step)
            ends.append(loss_of(model, batch))
            with torch.no_grad():
                weight.sub_(direction, alpha=sign * step)
        return (ends[0] - ends[1]) / (2 * step)

    return (4 * of_step(2e-5) - of_step(4e-5)) / 3


@pytest.mark.parametrize("quantity", ["heat_capacity", "entropy", "free_energy", "dos"])
def test_the_potential_that_phonopy_computed_has_no_error(tmp_path, quantity):
    """The same supercell and mesh; force constants of the potential itself."""
    folder = tmp_path / "NaCl"
    folder.mkdir()
    ase.io.write(folder / "POSCAR", STABLE)
    phonon = phonon_of(STABLE, true_potential())
    cell = phonon.supercell
    atoms = Atoms(
        numbers=cell.numbers, positions=cell.positions, cell=cell.cell, pbc=True
    )
    phonon.force_constants = hessian_of(atoms, true_potential())
    # 20 Å make this mesh.
    phonon.run_mesh([7, 7, 7], is_gamma_center=True)
    if quantity == "dos":
        phonon.run_total_dos(
            sigma=0.05, use_tetrahedron_method=False, freq_pitch=0.01, freq_min=-1
        )
        phonon.total_dos.write(filename=folder / "total_dos.dat")
    else:
        phonon.run_thermal_properties(
            temperatures=[150, 300, 600], cutoff_frequency=1e-2
        )
        phonon.thermal_properties.write_yaml(
            filename=folder / "thermal_properties.yaml"
        )
    values = values_of(
        tmp_path, supercell=SupercellOptions(supercell_matrix=(2, 2, 2))
    ).only([quantity])
    batch = batch_of(values, 0)
    absolute = PropertyErrors(smearing=0.5)
    errors = {
        name: compare_measured(model, batch, absolute, {quantity: 1.0}).losses[quantity]
        for name, model in (
            ("truth", true_potential()),
            ("base", PairPotential(CUTOFF, ELEMENTS)),
        )
    }
    (measured,) = batch[keys.MEASURED_VALUES]
    # Modes below 0.5 THz are smoothed; phonopy's density has a width of its own, 0.05
    # THz beside 0.5.
    limit = 0.01 if quantity == "dos" else 5e-5 * np.abs(measured.values).max()
    assert errors["truth"] < limit
    assert errors["base"] > 10 * errors["truth"]


def test_uncertain_values_count_less(measured):
    values = values_of(measured)
    batch = batch_of(values, values.names.index("LiF q=1/3,2/3,0"))
    model = PairPotential(CUTOFF, ELEMENTS)
    weights = {"frequencies": 1.0}
    plain = compare_measured(model, batch, PropertyErrors(), weights, weighted=False)
    counted = compare_measured(model, batch, PropertyErrors(), weights)
    (item,) = batch[keys.MEASURED_VALUES]
    per_mode = item.weights[item.expanded()]
    assert per_mode[0] < per_mode[1] == per_mode[2]
    # 30 meV have an uncertainty of 2 meV, 6.5 THz one of 0.2 THz; the model's error of
    # both decides between the means.
    assert plain.losses != counted.losses


def test_a_batch_of_several_quantities_has_a_mean_of_each(measured):
    """Gradients of both, each divided by its own count, in halves too."""
    values = values_of(measured)
    batch = batch_of(values, *range(len(values)))
    model = PairPotential(CUTOFF, ELEMENTS)
    loss = MeasuredLoss(dict.fromkeys(MEASURABLE, 2.0), compared=ERRORS)
    target = loss.request(batch, 0, model)
    work = Work(keys.MEASURED, batch, None, properties=target)

    def terms(part: Work):
        hvp = model.derivatives(part.structures, tangents=part.tangents).hvp
        _, products = part.share_products(hvp)
        return part.properties.terms(products, part.structures)

    whole = terms(work)
    assert {name: int(term.count) for name, term in whole.items()} == {
        "frequencies": 5,
        **dict.fromkeys(MEASURABLE[1:], 1),
    }
    singles = [terms(half) for half in work.halves()]
    for name, term in whole.items():
        both = sum(float(half[name].total) for half in singles)
        np.testing.assert_allclose(float(term.total), both, rtol=1e-12)
        (gradient,) = torch.autograd.grad(term.total, model.depth, retain_graph=True)
        parts = [
            torch.autograd.grad(half[name].total, model.depth, retain_graph=True)[0]
            for half in singles
            if half[name].total.requires_grad
        ]
        np.testing.assert_allclose(gradient, sum(parts), rtol=1e-10)
        assert gradient.abs().max() > 0


# Stable with the truth and with the base model, at all q-points.
STABLE = bulk("NaCl", "rocksalt", 5.3)
KNOWN = {"NaCl": STABLE, "NaCl-5.2": bulk("NaCl", "rocksalt", 5.2)}


def write_true_frequencies(path, name, q_points) -> str:
    """All modes of the truth at q-points that fit two cells along each axis."""
    lines = [FREQUENCIES]
    phonon = phonon_of(KNOWN[name], true_potential())
    for q in q_points:
        values = phonon.get_frequencies(q)
        if not any(q):
            values = np.sort(values[np.argsort(np.abs(values))[3:]])
        point = ",".join(map(str, q))
        lines += [f"{name},{point},{abs(value):.6f},THz,,," for value in values]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.filterwarnings("ignore:Training on phonons alone")
@pytest.mark.filterwarnings("ignore:Measured values")
def test_some_frequencies_alone_teach_those_of_other_q_points_and_crystals(
    world, tmp_path
):
    """No force constants are shown: NaCl at Γ and one point of the zone boundary.

    Kept back are other q-points, also of another lattice constant.
    """
    for name, atoms in KNOWN.items():
        (tmp_path / name).mkdir()
        ase.io.write(tmp_path / name / "POSCAR", atoms)
    others = [(0.5, 0.5, 0.5), (0.5, 0, 0)]
    shown = write_true_frequencies(
        tmp_path / "shown.csv", "NaCl", [(0, 0, 0), (0.5, 0.5, 0)]
    )
    kept_back = {
        name: MeasuredValues(
            write_true_frequencies(tmp_path / f"{name}.csv", name, others),
            str(tmp_path),
            CUTOFF,
            supercell=SupercellOptions(min_length=6.0),
            mesh=20.0,
        )
        for name in KNOWN
    }
    module = PhononFineTuning(
        PairPotential(CUTOFF, ELEMENTS),
        phonon_weights={},
        optimizer=lambda groups: torch.optim.Adam(groups, lr=2e-2),
    )
    loss = MeasuredLoss({"frequencies": 1.0}, probe=PropertyProbe(n_probes=4))
    phonons = world.phonons_train / "NaCl.yaml"
    data = PhononDataModule(
        PhononSource(phonons, phonons, batch_size=1),
        measured=MeasuredSource(shown, shown, str(tmp_path)),
        mode="joint",
        cache_dir=tmp_path,
    )
    trainer = lightning.Trainer(
        callbacks=[loss],
        logger=False,
        enable_checkpointing=False,
        inference_mode=False,
        use_distributed_sampler=False,
        max_steps=60,
        check_val_every_n_epoch=1000,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )

    def errors() -> dict[str, float]:
        found = {
            name: loss.errors(module.model, batch_of(values, 0, 1))
            for name, values in kept_back.items()
        }
        return {
            name: float(metrics["frequencies_mae"].mean())
            for name, metrics in found.items()
        }

    before = trainer.validate(module, data, verbose=False)[0] | errors()
    trainer.fit(module, data)
    after = trainer.validate(module, data, verbose=False)[0] | errors()
    # A third of each is left of what is trained on and of what is kept back.
    for name in ("measured/frequencies_mae", *KNOWN):
        assert after[name] < 0.5 * before[name]
    # The force constants of a supercell were validated on, and no loss was on them.
    assert after["phonon/hvp_mae"] < 0.6 * before["phonon/hvp_mae"]


def test_values_without_a_weight_are_left_out(measured, tmp_path):
    with pytest.raises(ConfigError, match=r"loss\.measured\.dos is -1"):
        MeasuredLoss({"dos": -1.0})
    data = PhononDataModule(
        PhononSource("unused"),
        measured=MeasuredSource(str(measured), str(measured), str(measured)),
        cutoff=CUTOFF,
        atomic_numbers=ELEMENTS,
        cache_dir=tmp_path,
    )
    data._train = {keys.MEASURED: values_of(measured)}
    data.use_measured(["dos", "entropy"])
    assert data.counts == {"measured_train": 2}
    with pytest.raises(ConfigError, match=r"has dos, entropy, and loss\.measured"):
        data.use_measured(["frequencies"])


@pytest.mark.filterwarnings("ignore:Training on phonons alone")
def test_values_need_crystals_and_something_that_relaxes_them(
    measured, world, tmp_path
):
    def data_of(**options) -> PhononDataModule:
        return PhononDataModule(
            PhononSource(world.phonons_train / "LiF.yaml"),
            measured=MeasuredSource(str(measured), **options),
            cutoff=CUTOFF,
            atomic_numbers=ELEMENTS,
            cache_dir=tmp_path,
        )

    with pytest.raises(ConfigError, match=r"set data\.measured\.structures"):
        data_of().setup("fit")
    crystals = str(measured)
    with pytest.raises(ConfigError, match=r"data\.measured\.relax=true"):
        data_of(structures=crystals, relax=True).setup("fit")
    data = data_of(structures=crystals, relax=True)
    moved = []

    def relax(phonon):
        cell = phonon.unitcell
        moved.append(len(cell))
        return Atoms(
            numbers=cell.numbers,
            scaled_positions=cell.scaled_positions,
            cell=1.01 * cell.cell,
            pbc=True,
        )

    data.use_relaxation(relax)
    data.setup("fit")
    assert moved == [2, 2]
    found = data._train[keys.MEASURED].item(0).record
    shortest = np.linalg.norm(CRYSTALS["LiF"].cell[0])
    lengths = np.linalg.norm(found.cell, axis=1)
    np.testing.assert_allclose(lengths.min() / shortest, 1.01, rtol=1e-9)


def test_force_constants_of_a_layout_are_zero(measured):
    """Nothing of it can be learnt by mistake."""
    values = values_of(measured)
    for index in range(len(values)):
        assert not values.data(index)[keys.FORCE_CONSTANTS].compact.any()
