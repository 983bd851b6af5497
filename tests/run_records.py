"""What a run of the workflow did, by the files it left: jobs and GPUs from benchmark files, models from logs, rows from parts."""

import ast
import csv
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import Any

import polars as pl
from workflow_folder import Folder, new_rows

LAST_STEPS = ["data/micro/tables/features.parquet", "data/micro/tables/steering.parquet"]
"""The tables right after the last steps that keep parts; what comes after them reads tables only."""


@dataclass(frozen=True)
class Done:
    jobs: Counter[str]
    """Rule -> its jobs that ran."""
    rows: dict[str, pl.DataFrame]
    """Step -> rows in the parts that came in; steps without any are absent."""
    gpu_jobs: set[str]
    """Rules of the jobs that were given a GPU."""
    model_jobs: set[str]
    """Rules of the jobs that loaded a model."""

    @property
    def n_rows(self) -> dict[str, int]:
        return {step: rows.height for step, rows in self.rows.items()}


def run_measured(folder: Folder, *targets: str, **settings: Any) -> Done:
    """Run the workflow, which has to succeed, and see what it did. Logs of earlier runs are removed first."""
    shutil.rmtree(folder.path / "logs", ignore_errors=True)
    before = folder.parts()
    code, output = folder.run("--benchmark-extended", *targets, **settings)
    assert code == 0, output
    jobs = [row for file in sorted((folder.path / "logs").rglob("*.tsv")) for row in csv.DictReader(file.open(), delimiter="\t")]
    logs = {file.relative_to(folder.path / "logs/micro").parts[0]: file.read_text() for file in (folder.path / "logs").rglob("*.log")}
    return Done(
        Counter(row["rule_name"] for row in jobs),
        new_rows(before, folder.parts()),
        {row["rule_name"] for row in jobs if ast.literal_eval(row["resources"]).get("gpu", 0)},
        {rule for rule, text in logs.items() if "INFO model " in text},
    )


def due(folder: Folder) -> dict[str, list[str]]:
    """Rule -> the output files that the next run would make, as `snakemake --summary` lists them; runs nothing."""
    code, output = folder.run("--summary")
    assert code == 0, output
    lines = output.splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith("output_file\t"))
    rows = [dict(zip(lines[header].split("\t"), line.split("\t"), strict=True)) for line in lines[header + 1 :] if "\t" in line]
    files: dict[str, list[str]] = {}
    for row in rows:
        if row["plan"] != "no update":
            files.setdefault(row["rule"], []).append(row["output_file"])
    return files


def results_of(folder: Folder) -> dict[str, bytes]:
    """Tables, metrics and figures, byte for byte."""
    kinds = ("data/micro/tables/*", "data/micro/metrics.json", "figures/micro/*")
    return {str(path.relative_to(folder.path)): path.read_bytes() for kind in kinds for path in folder.path.glob(kind)}
