"""Force constants of a teacher, as a source of phonon data like any other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from phonopy import Phonopy
from tqdm import tqdm

from pft_lightning.backends.base import EnergyModel
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.fingerprints import fingerprint
from pft_lightning.evaluation.protocols import Protocol, compute_phonons
from pft_lightning.files import make_folder, replacing
from pft_lightning.json_files import find_json, write_json
from pft_lightning.locks import locked
from pft_lightning.option_types import EVPerAngstrom


_LOCK = "distill.lock"


def distill(
    teacher: EnergyModel,
    supercells: Iterable[tuple[str, Phonopy]],
    out: Path,
    *,
    relax: bool = True,
    fmax: EVPerAngstrom = 0.005,
) -> int:
    """Write the force constants of a teacher in given supercells.

    All columns of the teacher's Hessian are in them, so that a student trained on
    the folder sees ``H_teacher v`` for every probe. A material whose file is there
    already is not computed again.

    Args:
        teacher: whose Hessians are the targets.
        supercells: name and supercell of each material.
        out: folder with one phonopy yaml file for each.
        relax: bring atoms and lattice to the teacher's minimum first, where its
            forces and stress vanish as ``data.phonons.options.relaxed=full`` says.
        fmax: largest force of a relaxation that has converged, eV/Å.

    Returns:
        The number of materials that were computed now.

    Raises:
        ConfigError: the folder holds another teacher's force constants, two materials
            have one name, or the teacher lacks an element.
        RelaxationError: a relaxation exploded or did not converge.
        StorageError: another process writes into the folder, or it cannot be written.
    """
    make_folder(out)
    busy = f"{out}: another process writes into this folder now; choose another out=..."
    with locked(out / _LOCK, busy=busy):
        return _distill(teacher, supercells, out, relax=relax, fmax=fmax)


def _distill(
    teacher: EnergyModel,
    supercells: Iterable[tuple[str, Phonopy]],
    out: Path,
    *,
    relax: bool,
    fmax: float,
) -> int:
    made = {"teacher": fingerprint(teacher), "relax": relax, "fmax": fmax}
    record = out / "teacher.json"
    filled = any(path.name != _LOCK for path in out.iterdir())
    if filled and (find_json(record) or {}).items() != made.items():
        raise ConfigError(
            f"{out} exists already and was made by another teacher or with other "
            "settings; choose another out=..."
        )
    write_json(record, made)
    protocol = Protocol(name="distill", relax=relax, fmax=fmax, band_points=0)
    seen: set[str] = set()
    computed = 0
    for name, supercell in tqdm(supercells, desc="Teacher", unit="material"):
        if name in seen:
            raise ConfigError(f"two materials are named {name!r}; rename one file.")
        seen.add(name)
        path = out / f"{name}.yaml.xz"
        if path.exists():
            continue
        phonon = compute_phonons(teacher, supercell, protocol).phonon
        with replacing(path) as partial:
            # phonopy adds the ending of the compression.
            phonon.save(
                partial.with_suffix(""),
                settings={"force_constants": True},
                compression="xz",
            )
        computed += 1
    return computed
