"""Machines that compute an experiment's steps with fake values, which say where they come from."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.files import text_id
from saesteer.core.store import complete
from saesteer.core.tables import Table, write_summary
from saesteer.run import Run
from saesteer.settings import Experiment, Workflow, load_experiment
from saesteer.steps.step import steps_of
from saesteer.workflow import plan

ROOT = Path(__file__).parents[1]


def experiment(name: str, **changes: Any) -> Experiment:
    return load_experiment(name, ROOT / "config/experiments").model_copy(update=changes)


def of_few_texts(of: Experiment, folder: Path) -> Experiment:
    """With examples from 40 of the shipped texts: each later step's keys are told with the digests of all of them."""
    path = folder / "texts.parquet"
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        pl.read_parquet(of.max_activating_examples.texts).head(40).write_parquet(path)
    return of.model_copy(update={"max_activating_examples": of.max_activating_examples.model_copy(update={"texts": path})})


def fake_rows(table: Table, keys: pl.DataFrame, machine: str) -> pl.DataFrame:
    """Rows as another machine would compute them: each value depends on the key and the machine."""
    number = sum(map(ord, machine)) % 97 + 1
    return keys.with_columns(
        **{name: _fake(column.dtype, number) for name, column in table.columns.items() if name not in table.keys and name != "reason"},
        **({"reason": pl.lit(None, pl.String)} if "reason" in table.columns else {}),
    ).select(list(table.columns))


def _fake(dtype: Any, number: int) -> pl.Expr:
    if isinstance(dtype, pl.List):
        return pl.concat_list(_fake(dtype.inner, number))
    if isinstance(dtype, pl.Struct):
        return pl.struct(_fake(field.dtype, number).alias(field.name) for field in dtype.fields)
    text = {pl.String: str(number), pl.Binary: bytes([number]), pl.Boolean: number % 2 == 0}
    return pl.lit(text.get(dtype, number), dtype)


class Machine:
    """A data folder in which one machine computes the steps of an experiment, with fake values."""

    def __init__(self, folder: Path, of: Experiment, name: str) -> None:
        self.folder, self.experiment, self.name, self.steps = folder, of_few_texts(of, folder.parent), name, steps_of(of)
        self.computed: dict[str, int] = {}

    @property
    def opened(self) -> Run:
        return Run(Workflow(experiments=("any",), data_dir=self.folder.parent), self.folder.name, self.experiment)

    def write_inputs(self, step: str) -> None:
        """What no earlier step computes: pins, SAEs, training texts and written prompts."""
        first, layers = self.opened.of_job(next(iter(self.opened.groups(step))))
        for name, path in plan.input_files(first, step, layers).items():
            if name not in self.steps:
                self._write_pin(path, name)
        for table in self.steps[step].written:
            self.written(table)

    def manifest(self, step: str) -> Path:
        return self.opened.manifests(step)[0]

    def run(self, steps: tuple[str, ...] | None = None) -> dict[str, int]:
        """Compute what is missing; gives the number of rows of each step that computed any."""
        for step in steps or tuple(self.steps):
            self.write_inputs(step)
            self.computed[step] = sum(self.run_job(step, group) for group in self.opened.groups(step))
        return {step: n for step, n in self.computed.items() if n}

    def run_job(self, step: str, group: str) -> int:
        """The same of one job."""
        table, (run, layers) = self.steps[step].table, self.opened.of_job(group)
        rows = lambda missing: fake_rows(table, missing, self.name).partition_by("layer")  # noqa: E731
        wants, manifest = plan.wanted_rows(run, step, layers), self.folder / step / f"{group}.json"
        return complete(self.folder / step, table, wants, rows, manifest, made_with=lambda: {"torch": self.name})

    @property
    def layers(self) -> tuple[int, ...]:
        return next(iter(self.experiment.layer_groups.values()))

    def n_missing(self, step: str) -> int | None:
        return plan.n_missing(self.opened, step, self.layers)

    def take_parts(self, other: "Machine", *steps: str) -> None:
        """Put the parts of another machine beside those that are here, as a merge of two branches does."""
        for step in steps:
            for part in (other.folder / step).glob("*/layer_*/*.parquet"):
                target = self.folder / step / part.relative_to(other.folder / step)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(part.read_bytes())

    def written(self, table: Table) -> Path:
        """A table of what there is of each concept, in one row."""
        path = self.opened.summary_path(table)
        keys = [{"concept_id": text_id(name), "positive": True, "number": 1} for name in self.experiment.methods.concepts.names]
        if not path.is_file():
            write_summary(table, fake_rows(table, pl.DataFrame(keys).select(table.keys).cast(table.key_schema), self.name), path)
        return path

    def _write_pin(self, path: Path, name: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        layers = {str(layer): {"fingerprint": "a"} for layer in self.experiment.layers}
        path.write_text(json.dumps({"step": "saes", "layers": layers} if name == "saes" else {"digest": "a"}))
