"""The folder of an evaluation: sole owner of the names and the schema of its files.

===========================  ========================================================
``metrics.json``             ``Summary``: totals per model, counts, failures
``per_material.csv``         ``COLUMNS``, one row per material and model
``materials/<name>.json``    ``Record`` of a material; it says that the material is done
``materials/<name>.npz``     its phonon properties, see ``properties_io``
``materials/<name>/``        force constants of a crystal, see ``phonopy_files``; or
                             conductivities by model, see ``conductivity.stages``
``forgetting/<label>.json``  errors of a model on upstream frames
``leaderboard/``             for others, see ``conductivity.leaderboard``, ``ml_peg``
``report.html``              the page of ``plots.report``, with ``figures/*.png``
``command.txt``              the command, written by ``runs.folder``
===========================  ========================================================

Folders of older versions lack parts of ``metrics.json``; they are empty when read.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict, cast

from typing_extensions import NotRequired

from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.properties_io import load_properties, save_properties
from pft_lightning.files import make_folder, write_atomically
from pft_lightning.json_files import find_json, parse_json, write_json
from pft_lightning.losses import QUANTITIES
from pft_lightning.types import PhononProperties


SUMMARY_FILE: Final = "metrics.json"
ROWS_FILE: Final = "per_material.csv"
REPORT_FILE: Final = "report.html"
COMMAND_FILE: Final = "command.txt"
LEADERBOARD: Final = "leaderboard"

# Label of DFT, which no model may have.
REFERENCE: Final = "reference"


def reference_of(column: str) -> str:
    """Column with the value of DFT beside that of a model."""
    return f"{REFERENCE}_{column}"


def error_of(column: str) -> str:
    """Column with the error of a value of a model."""
    return f"{column}_error"


def curve_mae_of(column: str) -> str:
    """Column with the mean error of a thermal property over all temperatures."""
    return f"{column}_curve_mae"


def mae_of(quantity: str) -> str:
    """Mean absolute error of energies, forces or stresses on upstream frames."""
    return f"{quantity}_mae"


# Columns of per_material.csv: what a row is of, and whether it has numbers.
NAME: Final = "name"
FORMULA: Final = "formula"
N_ATOMS: Final = "n_atoms"
N_PRIMITIVE: Final = "n_primitive"
MODEL: Final = "model"
STATUS: Final = "status"
ERROR: Final = "error"

# Values of STATUS.
OK: Final = "ok"
FAILED: Final = "failed"

# Values of a model. Thermal properties are named as in ``PhononProperties``.
MIN_FREQUENCY: Final = "min_frequency"
MAX_FREQUENCY: Final = "max_frequency"
ENTROPY: Final = "entropy"
FREE_ENERGY: Final = "free_energy"
HEAT_CAPACITY: Final = "heat_capacity"
FREQUENCY_RATIO: Final = "frequency_ratio"
MODEL_UNSTABLE: Final = "model_unstable"
REFERENCE_UNSTABLE: Final = reference_of("unstable")
THERMAL: Final = (ENTROPY, FREE_ENERGY, HEAT_CAPACITY)

# Errors of a model against DFT.
FORCE_CONSTANTS_MAE: Final = "force_constants_mae"
COMMENSURATE_FREQUENCY_MAE: Final = "commensurate_frequency_mae"
MESH_FREQUENCY_MAE: Final = "mesh_frequency_mae"
MAX_FREQUENCY_ERROR: Final = error_of(MAX_FREQUENCY)
MAX_FREQUENCY_ERROR_K: Final = f"{MAX_FREQUENCY_ERROR}_K"
ENTROPY_ERROR: Final = error_of(ENTROPY)
FREE_ENERGY_ERROR: Final = error_of(FREE_ENERGY)
HEAT_CAPACITY_ERROR: Final = error_of(HEAT_CAPACITY)
DOS_ERROR: Final = "dos_error"
SPECTRUM_W1: Final = "spectrum_w1"

# Along the band structure: of its highest, mean and lowest frequency, and of each.
BANDS: Final = (
    *("band_max_error_K", "band_mean_error_K"),
    *("band_min_error_K", "band_mae_K"),
)
BAND_MIN_FREQUENCY: Final = "band_min_frequency"

# Imaginary modes at commensurate q-points: of DFT, of a model, and found by both.
REFERENCE_IMAGINARY: Final = reference_of("imaginary_modes")
IMAGINARY: Final = "imaginary_modes"
IMAGINARY_BOTH: Final = "imaginary_modes_of_both"

# Of a crystal alone: the largest force on an atom where force constants are taken.
MAX_FORCE: Final = "max_force"

# Of molecules only: vibrations in cm⁻¹, a list of them in the file of a material, and
# the zero-point energy.
FREQUENCY_MAE_CM1: Final = "frequency_mae_cm1"
FREQUENCIES: Final = "frequencies_cm1"
ZERO_POINT_ENERGY: Final = "zero_point_energy"
ZERO_POINT_ENERGY_ERROR: Final = error_of(ZERO_POINT_ENERGY)
MOLECULAR: Final = (FREQUENCY_MAE_CM1, ZERO_POINT_ENERGY_ERROR)

# What it took.
VOLUME_RATIO: Final = "volume_ratio"
RELAX_STEPS: Final = "relax_steps"
N_PRODUCTS: Final = "hvps"
SECONDS: Final = "seconds"

ERRORS: Final = (
    *(FORCE_CONSTANTS_MAE, COMMENSURATE_FREQUENCY_MAE, MESH_FREQUENCY_MAE),
    *(MAX_FREQUENCY_ERROR, MAX_FREQUENCY_ERROR_K),
    *map(error_of, THERMAL),
    *map(curve_mae_of, THERMAL),
    DOS_ERROR,
    SPECTRUM_W1,
    *BANDS,
)
COST: Final = (VOLUME_RATIO, RELAX_STEPS, N_PRODUCTS, SECONDS)
COLUMNS: Final = (
    *(NAME, FORMULA, N_ATOMS, N_PRIMITIVE, MODEL, STATUS, ERROR),
    *ERRORS,
    *(FREQUENCY_RATIO, REFERENCE_UNSTABLE, MODEL_UNSTABLE),
    *(REFERENCE_IMAGINARY, IMAGINARY, IMAGINARY_BOTH),
    *(
        column
        for value in (MIN_FREQUENCY, BAND_MIN_FREQUENCY, MAX_FREQUENCY, *THERMAL)
        for column in (value, reference_of(value))
    ),
    *MOLECULAR,
    *(ZERO_POINT_ENERGY, reference_of(ZERO_POINT_ENERGY)),
    *COST,
)

# Columns where there is no reference.
CRYSTAL_COLUMNS: Final = (
    *(NAME, FORMULA, N_ATOMS, N_PRIMITIVE, MODEL, STATUS, ERROR),
    *(MODEL_UNSTABLE, MIN_FREQUENCY, MAX_FREQUENCY, *THERMAL),
    *(MAX_FORCE, *COST),
)

# Mean absolute errors on upstream frames, in a file of ``forgetting``.
FORCES_MAE: Final = mae_of("forces")
FORGETTING: Final = tuple(map(mae_of, QUANTITIES))

# Unit of a column, or of an error on upstream frames; "" for pure numbers.
UNITS: Final[Mapping[str, str]] = {
    FORCE_CONSTANTS_MAE: "eV/Å²",
    **dict.fromkeys((COMMENSURATE_FREQUENCY_MAE, MESH_FREQUENCY_MAE), "THz"),
    **dict.fromkeys((MIN_FREQUENCY, BAND_MIN_FREQUENCY, SPECTRUM_W1), "THz"),
    **dict.fromkeys((MAX_FREQUENCY, MAX_FREQUENCY_ERROR), "THz"),
    **dict.fromkeys((MAX_FREQUENCY_ERROR_K, *BANDS), "K"),
    MAX_FORCE: "eV/Å",
    **{
        column: unit
        for value, unit in zip(THERMAL, ("J/K/mol", "kJ/mol", "J/K/mol"), strict=True)
        for column in (value, error_of(value), curve_mae_of(value))
    },
    FREQUENCY_MAE_CM1: "cm⁻¹",
    **dict.fromkeys((ZERO_POINT_ENERGY, ZERO_POINT_ENERGY_ERROR), "eV"),
    **dict.fromkeys((DOS_ERROR, FREQUENCY_RATIO, VOLUME_RATIO), ""),
    **dict(zip(FORGETTING, ("eV/atom", "eV/Å", "eV/Å³"), strict=True)),
}

# A row of per_material.csv; what is unknown is missing.
Row = dict[str, Any]


class Record(TypedDict, total=False):
    """Content of the file of a material.

    Attributes:
        name: of the material.
        source: where it was read.
        keys: per model that need not be evaluated again, what its row depends on.
        status: ``FAILED`` where the reference cannot be read.
        error: why.
        models: the row of each model.
    """

    name: str
    source: str
    keys: dict[str, str]
    status: str
    error: str
    models: dict[str, Row]


class Counts(TypedDict, total=False):
    """Numbers of materials: all, those that cannot be read, those failed by model."""

    materials: int
    unreadable: int
    failed: dict[str, int]


class Failure(TypedDict, total=False):
    """One failure; ``model`` is None where the material itself cannot be read."""

    name: str
    model: str | None
    error: str
    source: str


class Summary(TypedDict):
    """Content of ``metrics.json``.

    Attributes:
        protocol: that was followed, its options.
        versions: of libraries.
        counts: of materials.
        models: totals of each model by column, as of ``metrics.summarise``.
        forgetting: errors of each model on upstream frames, as of
            ``forgetting.merge``; empty where there were none.
        failures: of materials and models.
        trade_off: gain against forgetting, as of ``trade_off.TradeOff``; absent where
            the models are no mixes.
        functionals: as of ``runs.functionals``; absent where nothing says them.
    """

    protocol: dict[str, Any]
    versions: dict[str, str]
    counts: Counts
    models: dict[str, dict[str, Any]]
    forgetting: dict[str, dict[str, Any]]
    failures: list[Failure]
    trade_off: NotRequired[Any]
    functionals: NotRequired[Any]


class EvaluationFolder:
    """Files of one evaluation.

    Args:
        path: of the folder; made when something is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.summary_file = self.path / SUMMARY_FILE
        self.rows_file = self.path / ROWS_FILE
        self.report_file = self.path / REPORT_FILE
        self.command_file = self.path / COMMAND_FILE
        self.figures = self.path / "figures"
        self.materials = self.path / "materials"

    def record_file(self, name: str) -> Path:
        """File with the record of a material."""
        return self.materials / f"{name}.json"

    def arrays_file(self, name: str) -> Path:
        """File with the phonon properties of a material."""
        return self.materials / f"{name}.npz"

    def phonopy_folder(self, name: str) -> Path:
        """Folder with the files of a crystal that phonopy reads."""
        return self.materials / name

    def model_folder(self, name: str, label: str) -> Path:
        """Folder with the stages of the conductivity of a crystal with a model."""
        return self.phonopy_folder(name) / f"model-{label}"

    def forgetting_file(self, label: str) -> Path:
        """File with the errors of a model on upstream frames."""
        return self.path / "forgetting" / f"{label}.json"

    def write_material(
        self, record: Record, properties: Mapping[str, PhononProperties]
    ) -> None:
        """Write what a material gave, the record last, which says that it is done."""
        if properties:
            save_properties(self.arrays_file(record["name"]), properties)
        self.write_record(record)

    def write_record(self, record: Record) -> None:
        """Write the record of a material whose other files are written."""
        write_json(self.record_file(record["name"]), record)

    def has_arrays(self, name: str) -> bool:
        """Tell whether the arrays of a material are there, by the form of the file."""
        return zipfile.is_zipfile(self.arrays_file(name))

    def read_record(self, name: str) -> Record | None:
        """Read the record of a material; None where there is no whole one."""
        record = find_json(self.record_file(name)) or {}
        keys, models = record.get("keys"), record.get("models")
        whole = (
            {"name", "source"} <= record.keys()
            and record.get("status") in (OK, FAILED)
            and isinstance(keys, dict)
            and isinstance(models, dict)
            and keys.keys() <= models.keys()
            and all(
                isinstance(row, dict) and row.get(STATUS) in (OK, FAILED)
                for row in models.values()
            )
        )
        return cast(Record, record) if whole else None

    def read_properties(self, name: str) -> dict[str, PhononProperties]:
        """Read the arrays of a material by label; empty where there are none.

        Raises:
            DataFormatError: the file is damaged.
        """
        path = self.arrays_file(name)
        return load_properties(path) if path.is_file() else {}

    def write_forgetting(self, label: str, key: str, errors: Mapping[str, Any]) -> None:
        """Write the errors of a model on upstream frames, and what they depend on."""
        write_json(self.forgetting_file(label), {"key": key, "errors": errors})

    def read_forgetting(self, label: str, key: str) -> dict[str, Any] | None:
        """Read the errors of a model; None where there are none of this key."""
        stored = find_json(self.forgetting_file(label)) or {}
        errors = stored.get("errors") if stored.get("key") == key else None
        return errors if isinstance(errors, dict) else None

    def write_totals(
        self,
        rows: Iterable[Row],
        summary: Summary,
        columns: Sequence[str] = COLUMNS,
    ) -> None:
        """Write ``per_material.csv`` and then ``metrics.json``.

        Args:
            rows: one per material and model.
            summary: totals.
            columns: of the table.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: "" if v is None else v for k, v in row.items()})
        # Names of files that are no UTF-8 are kept as their bytes.
        content = text.getvalue().encode(errors="surrogateescape")
        make_folder(self.path)
        write_atomically(self.rows_file, lambda file: file.write(content))
        write_json(self.summary_file, summary)

    def read_totals(self) -> tuple[Summary, list[dict[str, str]]]:
        """Read ``metrics.json`` and the rows of ``per_material.csv``, as text.

        Raises:
            DataFormatError: the folder holds no finished evaluation, or a damaged one.
        """
        for file in (self.summary_file, self.rows_file):
            if not file.is_file():
                raise DataFormatError(
                    f"{file} does not exist; expected the folder of a finished "
                    "pft-evaluate. Run the same command again: it goes on where it was "
                    "interrupted."
                )
        try:
            content = parse_json(self.summary_file.read_text(encoding="utf-8"))
            # Parts of one kind of evaluation are kept as they are.
            known = {name: part for name, part in content.items() if part}
            empty: dict[str, Any] = {"failures": []}
            empty |= {n: {} for n in ("protocol", "versions", "counts", "forgetting")}
            models = {"models": dict(content["models"])}
            summary = cast(Summary, {**empty, **known, **models})
            with self.rows_file.open(newline="", encoding="utf-8") as opened:
                rows = list(csv.DictReader(opened))
            if rows and not {NAME, MODEL, STATUS} <= set(rows[0]):
                raise ValueError(f"{ROWS_FILE} lacks {NAME}, {MODEL} or {STATUS}")
        except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            raise DataFormatError(
                f"{self.path}: {SUMMARY_FILE} or {ROWS_FILE} cannot be read "
                f"({type(error).__name__}: {error}). Run pft-evaluate again."
            ) from error
        return summary, rows
