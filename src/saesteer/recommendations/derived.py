"""Experiments that a command derives from others: files in `data/derived`, which take over whatever rows are there already and give back
those that they computed.

Their steps are completed in this process: a job of the workflow costs a Python start, which takes longer than most of them. Where SAEs or
models are not on this machine, or an endpoint is to be asked, there is `snakemake`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.text import Text

from saesteer.core.errors import SaesteerError
from saesteer.core.files import make_folder, text_id, write_atomically, write_json, write_text
from saesteer.core.store import read_manifest
from saesteer.core.yaml_1_2 import to_yaml
from saesteer.recommendations.question import RecommendRequest
from saesteer.run import Run, open_run
from saesteer.settings import Comparison
from saesteer.sources.pins import SAE_FILES, model_settings, pinned_files, pinned_path
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.steps.step import Step, steps_of
from saesteer.workflow.code_digest import algorithm_versions
from saesteer.workflow.job import with_progress
from saesteer.workflow.outputs import pins
from saesteer.workflow.plan import complete_manifest, endpoints_to_ask
from saesteer.workflow.preflight import check_experiment

TARGETS = (JUDGEMENTS.name, PERPLEXITY.name)
"""The steps that are wanted of a derived experiment, as far as it has them, with those that they read."""


class _NotHere(SaesteerError):
    """An endpoint has to be asked, which is left to jobs."""


def derived_name(source: Run, purpose: str, concept: str) -> str:
    """What an experiment is called that is derived from another one for a concept."""
    words = re.sub("[^a-z0-9]+", "-", concept.lower()).strip("-")
    return f"{source.name}-{purpose}-{words}-{text_id(concept)[:4]}"


def derived_run(source: Run, purpose: str, values: Mapping[str, Any], question: RecommendRequest, targets: Sequence[str] = TARGETS) -> Run:
    """The experiment of the question's concept that is derived from another one, with its targets computed."""
    name = derived_name(source, purpose, question.concept)
    write_text(source.workflow.derived_dir / f"{name}.yaml", to_yaml(dict(values)))
    run = replace(open_run(name, source.workflow), loaded=source.loaded)
    _share_parts(source.data, run.data)
    if not (_takes_over_inputs(source, run) and _completed_here(run, question.cores, targets)):
        _run_snakemake(run, question, targets)
    _share_parts(run.data, source.data)
    return run


def _share_parts(source: Path, target: Path) -> None:
    """Link every part of one experiment's stores into another's: parts are never changed, and named by their own digest."""
    for path in (*source.glob("*/*/layer_*/*.parquet"), *source.glob("*/*/fingerprint.json")):
        linked = target / path.relative_to(source)
        if not linked.exists():
            _link(path, linked)


def _takes_over_inputs(source: Run, run: Run) -> bool:
    """Take over pins and converted SAEs of a sweep on this machine, if none is older than what it was made from; whether that was so."""
    experiment = run.experiment
    if isinstance(experiment, Comparison) or experiment.saes.from_hub:
        return False
    names, manifests = pins(experiment), source.manifests("saes")
    places = [source.fetched_place(name) for name in names if pinned_path(experiment, name) is None]
    if not all(place.is_file() for place in places):
        return False
    if not all(_is_newer(source.data / f"pins/{name}.json", _made_from(source, name)) for name in names):
        return False
    folders = (Path(str(experiment.saes.path).format(layer=layer)) for layer in run.layers)
    converted_from = [file for folder in folders for file in pinned_files(folder, SAE_FILES)]
    if not all(_is_newer(manifest, converted_from) for manifest in manifests):
        return False
    entries = {layer: entry for manifest in manifests for layer, entry in read_manifest(manifest)["layers"].items()}
    if not all(_is_converted_as_now(source.data / "saes" / entry["file"]) for entry in entries.values()):
        return False
    for name in names:
        _link(source.data / f"pins/{name}.json", run.data / f"pins/{name}.json")
    for place in places:
        _link(place, run.downloads / run.name / place.name)
    for file in (Path(entry["file"]) for entry in entries.values()):
        for path in (file, file.with_suffix(".json")):
            _link(source.data / "saes" / path, run.data / "saes" / path)
    for manifest, layers in zip(run.manifests("saes"), experiment.layer_groups.values(), strict=True):
        write_json(manifest, {"step": "saes", "layers": {str(layer): entries[str(layer)] for layer in layers}})
    return True


def _made_from(run: Run, name: str) -> list[Path]:
    """The files behind a pin."""
    path = pinned_path(run.experiment, name)
    if path is not None:
        return pinned_files(path)
    gguf = model_settings(run.experiment, name).gguf
    return [run.fetched_place(name), *([gguf] if gguf else [])]


def _is_newer(made: Path, files: Iterable[Path]) -> bool:
    """Whether a file is there and not older than those that it was made from, which is how Snakemake sees it."""
    return made.is_file() and all(file.stat().st_mtime_ns <= made.stat().st_mtime_ns for file in files)


def _is_converted_as_now(sae: Path) -> bool:
    """Whether a converted SAE is on this machine, made by the converter that there is now. Unlike `pins.is_current` it does not read the
    file, which for large SAEs would take longer than the answer."""
    record = sae.with_suffix(".json")
    if not (sae.is_file() and record.is_file()):
        return False
    made = json.loads(record.read_text(encoding="utf-8"))
    return bool(made["converter_version"] == algorithm_versions("engine.sae_convert")["engine.sae_convert"])


def _link(path: Path, linked: Path) -> None:
    """Make a file another name of one, or a copy where there can be none: of a colleague's file, between two disks (DVC may link results
    from another one), on exFAT and some network disks. Both are only ever replaced, never written into."""
    if linked.exists() and (linked.samefile(path) or _is_copy(path, linked)):
        return
    make_folder(linked.parent)
    linked.unlink(missing_ok=True)
    try:
        os.link(path, linked)
    except OSError:
        write_atomically(linked, lambda temporary: shutil.copy2(path, temporary))


def _is_copy(path: Path, linked: Path) -> bool:
    """Whether size and time are those of the original: a copy takes both over, and neither is ever written into."""
    original, copy = path.stat(), linked.stat()
    return (original.st_size, original.st_mtime_ns) == (copy.st_size, copy.st_mtime_ns)


def _completed_here(run: Run, cores: int, targets: Sequence[str]) -> bool:
    """Complete the wanted steps one after the other, up to the first that has to ask an endpoint; whether none had to."""
    steps = steps_of(run.experiment)
    try:
        for name in _wanted_steps(steps, targets):
            for manifest, layers in zip(run.manifests(name), run.experiment.layer_groups.values(), strict=True):
                complete_manifest(run, manifest, layers, partial(_rows, run, steps[name], cores))
    except _NotHere:
        return False
    except ValueError as fault:  # of what the experiment says, as in the judge's topics
        raise SaesteerError(f"{run.name}: {fault}") from fault
    return True


def _wanted_steps(steps: Mapping[str, Step], targets: Sequence[str]) -> Sequence[str]:
    """The targets and what they read, directly or not, in order."""
    wanted = {*targets}
    for name, step in reversed([*steps.items()]):
        wanted |= set(step.inputs) if name in wanted else set()
    return [name for name in steps if name in wanted]


def _rows(run: Run, step: Step, cores: int, missing: pl.DataFrame) -> Iterable[pl.DataFrame]:
    if step.table is JUDGEMENTS and endpoints_to_ask(run):
        raise _NotHere
    if not step.runs_model:
        return step.compute(run, missing)
    from saesteer.engine.process import prepare_process

    prepare_process(cores)
    return with_progress(step.compute(run, missing), missing.height, step.unit, step.tokens, f"{run.name}: {step.table.name}")


def _run_snakemake(run: Run, question: RecommendRequest, targets: Sequence[str]) -> None:
    manifests = [str(path) for name in targets if name in steps_of(run.experiment) for path in run.manifests(name)]
    target_of = "methods" if isinstance(run.experiment, Comparison) else "experiments"
    command = [sys.executable, "-m", "snakemake", *manifests, "--cores", str(question.cores), "--rerun-incomplete"]
    command += ["--configfile", str(question.configfile), "--config", f"{target_of}=[{run.name}]"]
    findings = check_experiment(run.name, run.experiment, run.workflow, os.environ)
    estimate = next((finding.text for finding in findings if finding.about == "this machine"), "")
    Console(stderr=True).print(Text(f"computing what is missing; {estimate}"), soft_wrap=True)
    if subprocess.run(command, stdout=sys.__stderr__, check=False).returncode:
        raise SaesteerError(f"the workflow of {run.name} failed: the log of Snakemake in .snakemake/log says why")
