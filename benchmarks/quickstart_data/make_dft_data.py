"""Make the quickstart's DFT data with GPAW: phonons and energy/force/stress frames.

``run`` does the calculations; every finished one is written at once and skipped next
time, so an interrupted run goes on where it stopped. ``assemble`` packs what is
finished. Needs GPAW (written for 22.8), ASE and phonopy in one interpreter; one core is
enough (an hour or two)::

    OMP_NUM_THREADS=1 python make_dft_data.py run --work WORK
    python make_dft_data.py assemble --work WORK --out pft_lightning/example

All cells of a material describe one potential-energy surface: a primitive cell has
twice the k-points and half the FFT points of its 2x2x2 supercell along each axis, which
is the same sampling. Even shifted meshes are cheapest but break the cubic symmetry of a
face-centred lattice: perfect silicon then has forces of 0.03 eV/Å. Rocksalt sites are
inversion centres and the salts' gaps are wide, so only there the shifted mesh is used.
"""

from __future__ import annotations

import argparse
import json
import lzma
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.eos import EquationOfState
from gpaw import GPAW, PW, Davidson, Mixer
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.readers import read_phonon


CUTOFF = 500.0
"""Plane-wave cutoff, eV."""
CUTOFF_STEP = 20.0
"""Half width of the finite difference that gives the Pulay stress, eV."""
EXPANSIONS = {"train": 1.03, "val": 1.015}
"""Lattice constants of expanded crystals over the relaxed one: validation lies between
the two that are trained on."""
DISPLACEMENT = 0.01
"""Phonopy displacement, Å."""
SUPERCELL = 2
"""Repeats of the primitive cell along each axis."""
LINEAR_STRAINS = (-0.04, -0.027, -0.013, 0.0, 0.013, 0.027, 0.04)
"""Strains of the equation of state; these cells are frames as well."""
RATTLES = (0.02, 0.05, 0.08, 0.12, 0.035, 0.15, 0.06, 0.10, 0.03, 0.07)
"""Standard deviations of the supercell frames, Å, for lattice constants above 5 Å."""


@dataclass(frozen=True)
class Material:
    """One compound of the data set.

    Attributes:
        name: Formula, used for file names.
        structure: Prototype known to `ase.build.bulk`.
        guess: Starting lattice constant of the conventional cell, Å.
        electrons: Valence electrons per formula unit in the GPAW setups.
        grid: FFT points along each axis of the primitive cell.
        mesh: k-points along each axis of the supercell; odd is Γ-centred, even is
            shifted off Γ.
        expanded: Phonons of the expanded crystals are calculated as well.
    """

    name: str
    structure: str
    guess: float
    electrons: int
    grid: int
    mesh: int
    expanded: bool = False


MATERIALS = (
    Material("Si", "diamond", 5.47, 8, 20, 3, expanded=True),
    Material("NaCl", "rocksalt", 5.69, 14, 20, 2),
    Material("LiF", "rocksalt", 4.10, 10, 18, 2),
    Material("MgO", "rocksalt", 4.26, 16, 18, 2, expanded=True),
    Material("C", "diamond", 3.57, 8, 16, 3),
    Material("SiC", "zincblende", 4.38, 8, 18, 3, expanded=True),
    Material("NaF", "rocksalt", 4.70, 14, 20, 2, expanded=True),
)


def calculator(
    material: Material,
    repeats: int,
    log: Path,
    *,
    cutoff: float = CUTOFF,
    pulay: float | None = None,
    point_group: bool = True,
    tight: bool = False,
) -> GPAW:
    """Set up GPAW for a primitive cell or its supercell.

    Args:
        material: What is calculated.
        repeats: Repeats of the primitive cell along each axis, 1 or 2.
        log: GPAW's text output.
        cutoff: Plane-wave cutoff, eV.
        pulay: dE/dcutoff of one formula unit; corrects the stress for the
            incomplete basis.
        point_group: Reduce the k-points by the crystal's symmetry.
        tight: Convergence for finite displacements.
    """
    cells = repeats**3
    return GPAW(
        mode=PW(cutoff, dedecut=None if pulay is None else pulay * cells),
        xc="PBE",
        kpts=monkhorst_pack(material.mesh, SUPERCELL // repeats),
        gpts=(material.grid * repeats,) * 3,
        nbands=material.electrons // 2 * cells,
        occupations={"name": "fermi-dirac", "width": 0.0},
        symmetry={} if point_group else {"point_group": False},
        convergence={
            "density": 1e-6 if tight else 2e-5,
            "eigenstates": 1e-9 if tight else 2e-7,
        },
        mixer=Mixer(0.6, 8, 1),
        eigensolver=Davidson(2),
        txt=str(log),
    )


def monkhorst_pack(mesh: int, folding: int) -> np.ndarray:
    """Return the k-points of a cell whose `folding`-fold supercell has the mesh."""
    line = (np.arange(mesh * folding) + 0.5) / mesh / folding - 0.5
    if mesh % 2 and not folding % 2:
        line += 0.5 / mesh / folding
    return np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(
        -1, 3
    )


def primitive(material: Material, lattice: float) -> Atoms:
    """Return the two-atom cell with the given conventional lattice constant, Å."""
    return bulk(material.name, material.structure, a=lattice)


def evaluate(atoms: Atoms, calc: GPAW, target: Path, **info: object) -> Atoms:
    """Return a frame with its results, read from `target` if it is already there."""
    if target.exists():
        return ase.io.read(target)
    start = time.time()
    atoms = atoms.copy()
    atoms.calc = calc
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    frame = atoms.copy()
    frame.info.update(info)
    frame.calc = SinglePointCalculator(frame, **results)
    partial = target.with_suffix(".part")
    ase.io.write(partial, frame, format="extxyz")
    partial.rename(target)
    print(
        f"{target.parent.name:>5} {target.stem:<12} {time.time() - start:6.1f} s "
        f"iterations {calc.scf.niter:3d}  "
        f"max|F| {np.abs(results['forces']).max():7.3f} eV/Å",
        flush=True,
    )
    return frame


def pulay_slope(material: Material, work: Path) -> float:
    """Return dE/dcutoff of one formula unit at the guessed lattice constant."""
    target = work / "pulay.json"
    if not target.exists():
        energies = []
        for sign in (-1, 1):
            atoms = primitive(material, material.guess)
            atoms.calc = calculator(
                material, 1, work / "log.txt", cutoff=CUTOFF + sign * CUTOFF_STEP
            )
            energies.append(atoms.get_potential_energy())
        target.write_text(json.dumps((energies[1] - energies[0]) / (2 * CUTOFF_STEP)))
    return json.loads(target.read_text())


def equation_of_state(material: Material, work: Path, pulay: float) -> dict[str, float]:
    """Return lattice constant (Å), bulk modulus and largest stress error (GPa).

    The stress error compares the reported pressure with the slope of the fitted
    energy curve, at the five inner strains.
    """
    frames = []
    for index, strain in enumerate(LINEAR_STRAINS):
        atoms = primitive(material, material.guess * (1 + strain))
        calc = calculator(material, 1, work / "log.txt", pulay=pulay)
        frames.append(evaluate(atoms, calc, work / f"eos-{index}.xyz", kind="eos"))
    volumes = np.array([frame.get_volume() for frame in frames])
    energies = np.array([frame.get_potential_energy() for frame in frames])
    volume, _, modulus = EquationOfState(volumes, energies, "birchmurnaghan").fit()
    curve = np.polynomial.Polynomial.fit(volumes ** (-2 / 3), energies, 3)
    slope = curve.deriv()(volumes ** (-2 / 3)) * (-2 / 3) * volumes ** (-5 / 3)
    pressure = np.array([frame.get_stress()[:3].mean() for frame in frames])
    return {
        "lattice": round(float((4 * volume) ** (1 / 3)), 4),
        "bulk_modulus_gpa": float(modulus / units.GPa),
        "stress_error_gpa": float(np.abs(slope - pressure)[1:-1].max() / units.GPa),
    }


def phonons(
    material: Material, work: Path, lattice: float, kind: str = "phonon"
) -> Phonopy:
    """Return phonopy with the forces of all displacements of the supercell."""
    cell = primitive(material, lattice)
    phonon = Phonopy(
        PhonopyAtoms(
            symbols=cell.get_chemical_symbols(),
            cell=cell.cell[:],
            scaled_positions=cell.get_scaled_positions(),
        ),
        supercell_matrix=np.diag([SUPERCELL] * 3),
        primitive_matrix=np.eye(3),
    )
    phonon.generate_displacements(distance=DISPLACEMENT)
    forces, energies = [], []
    for index, displaced in enumerate(phonon.supercells_with_displacements):
        atoms = Atoms(
            displaced.symbols, displaced.positions, cell=displaced.cell, pbc=True
        )
        calc = calculator(material, SUPERCELL, work / "log.txt", tight=True)
        frame = evaluate(atoms, calc, work / f"{kind}-{index}.xyz", kind=kind)
        forces.append(frame.get_forces() - frame.get_forces().mean(axis=0))
        energies.append(frame.get_potential_energy())
    phonon.forces = forces
    phonon.supercell_energies = energies
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    return phonon


def frequencies(phonon: Phonopy) -> dict[str, list[float]]:
    """Return the frequencies (THz) at Γ, X and L, without the dipole term."""
    points = {"Γ": (0, 0, 0), "X": (0.5, 0, 0.5), "L": (0.5, 0.5, 0.5)}
    return {
        label: [round(float(f), 2) for f in phonon.get_frequencies(q)]
        for label, q in points.items()
    }


def random_strain(
    rng: np.random.Generator, hydrostatic: float, shear: float
) -> np.ndarray:
    """Return a symmetric deformation `1 + ε` with independent uniform components."""
    strain = rng.uniform(-shear, shear, (3, 3))
    return (
        np.eye(3) * (1 + rng.uniform(-hydrostatic, hydrostatic))
        + (strain + strain.T) / 2
    )


def frames(
    material: Material, lattice: float, n_sheared: int, n_rattled: int
) -> Iterator[tuple[str, int, Atoms]]:
    """Yield name, repeats and atoms of the distorted frames; the same in every call.

    Even rattled frames keep the relaxed lattice, odd ones are strained as well.
    Rattles shrink with the lattice constant, so that stiff diamond is not torn apart.
    """
    scale = min(1.0, lattice / 5.0)
    for index in range(n_sheared):
        rng = np.random.default_rng([1, index, material.grid])
        atoms = primitive(material, lattice)
        atoms.set_cell(atoms.cell[:] @ random_strain(rng, 0.02, 0.04), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.06 * scale, (len(atoms), 3))
        yield f"shear-{index}", 1, atoms
    for index, rattle in enumerate(RATTLES[:n_rattled]):
        rng = np.random.default_rng([2, index, material.grid])
        atoms = primitive(material, lattice).repeat(SUPERCELL)
        if index % 2:
            atoms.set_cell(
                atoms.cell[:] @ random_strain(rng, 0.03, 0.02), scale_atoms=True
            )
        atoms.positions += rng.normal(0, rattle * scale, (len(atoms), 3))
        yield f"rattle-{index}", SUPERCELL, atoms


def run(root: Path, names: list[str], n_sheared: int, n_rattled: int) -> None:
    """Do every calculation of the named materials that is not there yet."""
    for material in (m for m in MATERIALS if m.name in names):
        work = root / material.name
        work.mkdir(parents=True, exist_ok=True)
        pulay = pulay_slope(material, work)
        summary: dict[str, object] = {"pulay_slope": pulay}
        summary |= equation_of_state(material, work, pulay)
        lattice = summary["lattice"]
        summary["frequencies_thz"] = frequencies(phonons(material, work, lattice))
        (work / "summary.json").write_text(json.dumps(summary, ensure_ascii=False))
        print(material.name, json.dumps(summary, ensure_ascii=False), flush=True)
        if material.expanded:
            for split, factor in EXPANSIONS.items():
                phonons(material, work, lattice * factor, f"expanded-{split}")
        for name, repeats, atoms in frames(material, lattice, n_sheared, n_rattled):
            calc = calculator(
                material, repeats, work / "log.txt", pulay=pulay, point_group=False
            )
            evaluate(atoms, calc, work / f"{name}.xyz", kind=name.split("-")[0])


def save_phonons(phonon: Phonopy, packed: Path) -> None:
    """Write displacements and forces as compressed phonopy yaml, and read it back."""
    packed.parent.mkdir(parents=True, exist_ok=True)
    settings = {"force_sets": True, "displacements": True, "force_constants": False}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "phonopy.yaml"
        phonon.save(plain, settings=settings)
        packed.write_bytes(lzma.compress(plain.read_bytes(), preset=9))
    read_phonon(packed)


def assemble(root: Path, out: Path) -> None:
    """Pack finished phonons and frames, two frames a material for validation."""
    splits: dict[str, list[Atoms]] = {"train": [], "val": []}
    for number, material in enumerate(MATERIALS):
        work = root / material.name
        if not (work / "summary.json").exists():
            continue
        lattice = json.loads((work / "summary.json").read_text())["lattice"]
        save_phonons(
            phonons(material, work, lattice),
            out / "phonons" / "train" / f"{material.name}.yaml.xz",
        )
        if material.expanded:
            for split, factor in EXPANSIONS.items():
                save_phonons(
                    phonons(material, work, lattice * factor, f"expanded-{split}"),
                    out / "phonons" / split / f"{material.name}-{factor}.yaml.xz",
                )
        held_out = {"rattle-0", "eos-1"} if number % 2 else {"rattle-1", "shear-1"}
        for kind in ("eos", "shear", "rattle"):
            for path in sorted(work.glob(f"{kind}-*.xyz")):
                frame = ase.io.read(path)
                frame.info["material"] = material.name
                splits["val" if path.stem in held_out else "train"].append(frame)
    for split, members in splits.items():
        plain = root / f"upstream_{split}.xyz"
        ase.io.write(plain, members, format="extxyz")
        (out / f"{plain.name}.xz").write_bytes(
            lzma.compress(plain.read_bytes(), preset=9)
        )
        print(split, len(members), "frames")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="do the calculations that are missing")
    running.add_argument(
        "--sheared", type=int, default=3, help="2-atom frames a material"
    )
    running.add_argument(
        "--rattled", type=int, default=2, help="16-atom frames a material"
    )
    running.add_argument("--only", nargs="+", default=[m.name for m in MATERIALS])
    packing = commands.add_parser("assemble", help="pack the finished calculations")
    packing.add_argument(
        "--out", type=Path, required=True, help="example folder to fill"
    )
    for command in (running, packing):
        command.add_argument(
            "--work", type=Path, required=True, help="folder of single results"
        )
    args = parser.parse_args()
    if args.command == "run":
        run(args.work, args.only, args.sheared, args.rattled)
    else:
        assemble(args.work, args.out)


if __name__ == "__main__":
    main()
