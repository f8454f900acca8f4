"""What all evaluations of materials share: resumed, shared among processes, counted.

Every material is written when it is done. The same call into the same folder computes
only what is not there yet; a change of models, protocol or sources is noticed, and what
it concerns is computed again. A failure of the material or the model counts as done:
delete the file of the material to try again. One of the surroundings (memory, disk),
or that nobody foresaw, does not.

A new evaluation is a subclass of ``Evaluator`` that says

- what stands in a row beside the name of the material and the model: ``identify`` for
  what all models share, ``row`` for a model; a failure is raised, never returned;
- what results depend on beside material, model and protocol: ``keys_of``;
- which files belong to a record, if there are any: ``is_whole``;
- what the rows come to: ``summarise``, with ``summary.make_summary``;

and a function that takes models and paths and ends with ``Evaluator.evaluate``:
``evaluation/elastic_runner.py`` is the shortest example. ``runs/elastic.py`` beside it
reads its options from a configuration, and a line of ``runs/evaluate.py`` names its
task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pft_lightning.evaluation import processes
from pft_lightning.evaluation.failures import check_failure, failed_row, is_lasting
from pft_lightning.evaluation.folder import (
    MODEL,
    EvaluationFolder,
    Record,
    Row,
    Summary,
)
from pft_lightning.evaluation.records import readable_record, unreadable_record
from pft_lightning.evaluation.reference import Material
from pft_lightning.evaluation.sharing import compute_records
from pft_lightning.evaluation.stored import find_finished, find_valid_rows
from pft_lightning.evaluation.task import Task


_Protocol = TypeVar("_Protocol")

# What is read of a material, once for all models.
_Content = TypeVar("_Content")


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """Everything an evaluation wrote.

    Attributes:
        rows: one per material and model, see ``Evaluator.columns``.
        summary: totals, counts and failures.
        folder: that was written.
    """

    rows: list[Row]
    summary: Summary
    folder: Path


@dataclass(frozen=True, eq=False)
class Evaluator(ABC, Generic[_Protocol, _Content]):
    """What is done with every material, and where it is written.

    Attributes:
        task: models and protocol.
        folder: to write; None where everything stays in memory.
        what: is computed, for the progress bar.
        columns: of ``per_material.csv``.
    """

    task: Task[_Protocol]
    folder: EvaluationFolder | None

    what: ClassVar[str]
    columns: ClassVar[Sequence[str]]

    @abstractmethod
    def identify(self, material: Material[Any], content: _Content) -> Row:
        """Columns that say which material a row is of."""

    @abstractmethod
    def row(self, label: str, material: Material[Any], content: _Content) -> Row:
        """Columns of a model on a material, ``STATUS`` among them.

        Raises:
            PFTError: the model fails on this material, which does not end the others.
        """

    @abstractmethod
    def summarise(
        self,
        rows: list[Row],
        records: list[Record],
        noted: Mapping[str, Any] | None,
    ) -> Summary:
        """Sum up all rows.

        Args:
            rows: one per material and model.
            records: of the materials, in the order of the call.
            noted: what else the summary holds.
        """

    def read(self, material: Material[Any]) -> _Content:
        """Read what all models share; what is raised makes every model fail."""
        content: _Content = material.read()
        return content

    def keys_of(self, material: Material[Any]) -> dict[str, str]:
        """What the row of each model on a material depends on."""
        return self.task.keys_of(material)

    def is_whole(self, record: Record) -> bool:
        """Tell whether the files are there that belong to the record of a material."""
        return True

    def failed_columns(
        self, error: Exception, material: Material[Any], content: _Content | None
    ) -> Row:
        """Columns of a failure beside those of every one.

        Args:
            error: that was raised.
            material: it was raised on.
            content: of the material; None where it cannot be read.
        """
        return {}

    def known_rows(
        self, material: Material[Any], keys: Mapping[str, str], content: _Content
    ) -> dict[str, Row]:
        """Rows of models that were evaluated on this material before, by label."""
        return find_valid_rows(self.folder, material, keys, self.is_whole)

    def write(self, record: Record, content: _Content | None) -> None:
        """Write what a material gave, the record last, which says that it is done.

        Args:
            record: of the material.
            content: of the material; None where it cannot be read.
        """
        if self.folder is not None:
            self.folder.write_record(record)

    def compute(self, material: Material[Any]) -> Record:
        """Evaluate all models on a material; failures become part of the record.

        Raises:
            ConfigError: an option is wrong, for every material.
            StorageError: the disk is full, or the folder cannot be written.
        """
        keys = self.keys_of(material)
        try:
            content = self.read(material)
            identity = self.identify(material, content)
        except Exception as error:
            check_failure(error)
            record = unreadable_record(material, error, keys, self.task.models)
            for row in record["models"].values():
                row |= self.failed_columns(error, material, None)
            self.write(record, None)
            return record
        rows = self.known_rows(material, keys, content)
        for label in self.task.models:
            if label in rows:
                continue
            try:
                row = self.row(label, material, content)
            except Exception as error:
                check_failure(error)
                row = failed_row(error) | self.failed_columns(error, material, content)
                if not is_lasting(error):
                    keys.pop(label)
            rows[label] = {**identity, MODEL: label, **row}
        # In the order of the call, whatever was there before.
        rows = {label: rows[label] for label in self.task.models}
        record = readable_record(material, identity, keys, rows)
        self.write(record, content)
        return record

    def compute_all(
        self, materials: list[Material[Any]], *, progress: bool
    ) -> list[Record]:
        """Evaluate what is not in the folder yet, shared among the processes.

        Args:
            materials: all of them, the same in every process.
            progress: show how many are done, and how long the others will take.

        Returns:
            Records of all materials, in their order.
        """
        finished = find_finished(self.folder, materials, self.keys_of, self.is_whole)
        return compute_records(
            materials, finished, self.compute, progress=progress, what=self.what
        )

    def rows_of(self, records: Sequence[Record]) -> list[Row]:
        """Rows of all materials and models."""
        return [
            record["models"][label] for record in records for label in self.task.models
        ]

    def write_totals(self, rows: list[Row], summary: Summary) -> None:
        """Write the table and the summary, once for all processes."""
        if self.folder is not None and processes.rank()[0] == 0:
            self.folder.write_totals(rows, summary, self.columns)
        processes.barrier()

    def evaluate(
        self,
        materials: list[Material[Any]],
        noted: Mapping[str, Any] | None,
        *,
        progress: bool,
    ) -> Evaluated:
        """Evaluate all materials, and write what they come to.

        Args:
            materials: all of them, the same in every process.
            noted: what else the summary holds.
            progress: show a progress bar.

        Raises:
            ConfigError: an option is wrong, for every material.
            StorageError: the disk is full, or the folder cannot be written.
        """
        assert self.folder is not None
        records = self.compute_all(materials, progress=progress)
        rows = self.rows_of(records)
        summary = self.summarise(rows, records, noted)
        self.write_totals(rows, summary)
        return Evaluated(rows, summary, self.folder.path)
