"""The four commands in words: what each does, how it is called, what it needs."""

from __future__ import annotations

from dataclasses import dataclass


REFERENCE = "docs/reference.md"


@dataclass(frozen=True, slots=True)
class Command:
    """A command, for its help page and the reference.

    Attributes:
        purpose: what it does.
        examples: (what it is for, arguments); they work as they stand, one after the
            other, in an empty folder.
        needs: what it cannot do without, where nothing at all was given.
    """

    purpose: str
    examples: tuple[tuple[str, str], ...]
    needs: str


_STORE = "phonons='${pft_example:phonons/val}' out=phonons.store"
_MODEL = "model.checkpoint='${pft_example:base.model}'"

COMMANDS: dict[str, Command] = {
    "train": Command(
        purpose=(
            "Fine-tune a potential on force constants (Hessian-vector products) while "
            "co-training on energies, forces and stresses."
        ),
        examples=(
            (
                "the example that ships in the package, offline (MACE)",
                "experiment=quickstart hydra.run.dir=runs/quickstart",
            ),
            (
                "the same on a low-rank change of the weights, for 20 steps",
                "experiment=quickstart adaptation=lora trainer.max_steps=20 "
                "trainer.val_check_interval=20",
            ),
            (
                "go on with a run, for longer",
                "experiment=quickstart hydra.run.dir=runs/quickstart resume=true "
                "trainer.max_steps=1400",
            ),
        ),
        needs=(
            "nothing to train: give model.checkpoint=FILE, of the potential, and "
            "data.phonons.train=PATH, of phonon calculations. experiment=quickstart "
            "has both."
        ),
    ),
    "evaluate": Command(
        purpose=(
            "Compare phonons, thermal properties and errors on upstream frames of "
            "potentials with DFT, with a report; or write the force constants of a "
            "potential for phonopy; or compute and score thermal conductivities; or "
            "compare with measured values."
        ),
        examples=(
            (
                "a potential on phonons of four crystals",
                f"{_MODEL} phonons='${{pft_example:phonons/val}}'",
            ),
            (
                "what was forgotten, on frames with energies, forces and stresses",
                f"{_MODEL} phonons='${{pft_example:phonons/val}}' "
                "upstream='${pft_example:upstream_val.xyz.xz}'",
            ),
            (
                "force constants, bands and thermal properties of a crystal alone",
                f"task=force_constants {_MODEL} protocol=mdr_analytic "
                "structures='${pft_example:phonons/val/Si-1.015.yaml.xz}'",
            ),
        ),
        needs=(
            "nothing to evaluate: give model.checkpoint=FILE, of the potential, and "
            "phonons=PATH, of the DFT phonons (or task=force_constants and "
            "structures=PATH, of crystals)."
        ),
    ),
    "prepare": Command(
        purpose=(
            "Read phonon calculations once into a store that training streams from; "
            "or make structures for DFT, labels of a model, or its force constants."
        ),
        examples=(
            ("a store of all calculations in a folder", _STORE),
            (
                "ten displaced structures around a crystal, for DFT",
                "task=rattle out=rattled.xyz "
                "structures='${pft_example:phonons/val/Si-1.015.yaml.xz}'",
            ),
            (
                "structures labelled by a potential, to co-train on",
                f"task=pseudolabel structures=rattled.xyz {_MODEL} out=labelled.xyz",
            ),
        ),
        needs=(
            "nothing to prepare: give phonons=PATH, of the phonon calculations, and "
            "out=NAME.store, or another task."
        ),
    ),
    "export": Command(
        purpose=(
            "Write the potential of a run, or of a file in another form, with its "
            "provenance and a model card; loaded again and compared before it counts."
        ),
        examples=(
            (
                "a file in another form",
                f"{_MODEL} out=base.safetensors",
            ),
            (
                "the same in double precision",
                f"{_MODEL} model.dtype=float64 out=double.safetensors",
            ),
            (
                "the weights that a run of pft-train wrote",
                "run=runs/quickstart out=better.model",
            ),
        ),
        needs=(
            "nothing to export: give out=FILE, and run=FOLDER, of pft-train, or "
            "model.checkpoint=FILE."
        ),
    ),
}
