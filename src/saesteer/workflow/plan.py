"""What a job of a step has to compute, and every file that the workflow makes of an experiment. No torch.

A step's fingerprint is closed: its settings, the ALGORITHM_VERSION of every module that computes its rows, and the digests of everything it
reads.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saesteer.core import tables
from saesteer.core.errors import SettingsError
from saesteer.core.files import value_digest
from saesteer.core.store import MEASURED_ON, StoreError, Wanted, missing_keys, unnamed_parts
from saesteer.figures.names import (
    EFFECT_FIGURE_TABLES,
    FIGURE_TABLES,
    METHOD_FIGURE_TABLES,
    PERSISTENCE_FIGURE_TABLES,
    PMI_TABLES,
    QUESTION_FIGURE_TABLES,
)
from saesteer.settings import AllFeatures, Experiment, LocalRecords, NoJudge, TopicConcepts, Workflow, settings_of
from saesteer.sources.model_size import bytes_of_weights
from saesteer.sources.pins import MODELS, model_settings
from saesteer.workflow.keys import FURTHER_FILES, Files
from saesteer.workflow.steps import plans
from saesteer.workflow.upstream import upstream

MOST_WORDS = 400
"""Characters of a value that a job's params show; a longer one is shown by its digest."""


def layer_groups(experiment: Experiment) -> dict[str, tuple[int, ...]]:
    """Name -> layers of each job's group, e.g. layers_00-03."""
    size, layers = experiment.layers_per_job, sorted(experiment.layers)
    chunks = [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]
    return {f"layers_{chunk[0]:02d}-{chunk[-1]:02d}": chunk for chunk in chunks}


def manifests(folder: Path, experiment: Experiment, step: str) -> list[Path]:
    """The manifests of a step in an experiment's data folder. Readers take these and not all that lie there: of other groups of layers, or
    of features that were removed, some may be left."""
    return [folder / step / f"{group}.json" for group in layer_groups(experiment)]


def unneeded_files(folder: Path, experiment: Experiment) -> list[Path]:
    """The parts in an experiment's data folder that no manifest names: of removed features, old settings, old models."""
    planned = {step: manifests(folder, experiment, step) for step in plans(experiment)}
    if absent := [path for paths in planned.values() for path in paths if not path.is_file()]:
        raise SettingsError(
            f"{absent[0]} is missing, so a job failed or has not run, and its finished rows are named by nothing: run the workflow first,"
            " or name other experiments"
        )
    steps = sorted(path for path in folder.iterdir() if path.is_dir())
    return [file for step in steps for file in unnamed_parts(step, planned.get(step.name, []))]


def artifacts(experiment: Experiment) -> list[str]:
    """Every file that the rules make in an experiment's data folder: pins, manifests, tables, metrics.

    The workflow asks for all of them. If it asked for figures only, a job that failed would be taken for done: Snakemake 9.27 removes
    its output, records it as made from the new inputs all the same, and does not miss a file between two that are there.
    """
    manifests = [f"{step}/{group}.json" for step in ("saes", *plans(experiment)) for group in layer_groups(experiment)]
    always = [*(f"pins/{name}.json" for name in pins(experiment)), *manifests]
    scored = ["tables/features.parquet", *(f"features/layer_{layer:02d}.parquet" for layer in sorted(experiment.layers))]
    if experiment.until == "scores":
        return [*always, *scored]
    if experiment.until == "methods":
        further = tables.DAMAGE_SUMMARIES if has_damage(experiment) else ()
        if asks_of_persistence(experiment):
            further = (*further, *tables.PERSISTENCE_SUMMARIES)
        if asks_of_effects(experiment):
            further = (*further, *tables.EFFECT_QUESTIONS)
            always += [f"effects_at_multiples/{group}.parquet" for group in layer_groups(experiment)]
        if reads_later_layers(experiment):
            further = (*further, *tables.EFFECT_LAYER_SUMMARIES)
            always += [f"effects_at_later_layers/{group}.parquet" for group in layer_groups(experiment)]
        return [*always, *scored, *(f"tables/{name}.parquet" for name in (*tables.METHOD_SUMMARIES, *further))]
    summaries = [name for name in tables.SUMMARIES if has_pmi(experiment) or name not in PMI_TABLES]
    if answers_questions(experiment):
        summaries += list(tables.QUESTION_SUMMARIES)
        always += [f"{name}/{group}.parquet" for name in tables.LAYER_SUMMARIES for group in layer_groups(experiment)]
    return [*always, *(f"tables/{name}.parquet" for name in summaries), "metrics.json"]


def pins(experiment: Experiment) -> list[str]:
    """Names of the models and files whose digests the steps depend on."""
    steps = plans(experiment)
    return sorted({name for step in steps.values() for name in step.inputs} - {"saes", *steps})


def model_bytes(experiment: Experiment, step: str, files: Mapping[str, Any]) -> int:
    """Bytes of the largest model that a step loads, as far as it is there: a folder of the experiment, or where a fetch left one."""
    most = 0
    for name in set(plans(experiment)[step].inputs) & set(MODELS):
        settings = model_settings(experiment, name)
        folder = settings.path
        if folder is None and Path(files[f"{name}_files"]).is_file():
            folder = Path(json.loads(Path(files[f"{name}_files"]).read_text(encoding="utf-8"))["folder"])
        if folder is not None:
            most = max(most, bytes_of_weights(folder, settings.dtype))
    return most


def has_pmi(experiment: Experiment) -> bool:
    """Whether there are texts whose co-occurrences can be counted."""
    return bool(experiment.pmi.texts or experiment.pmi.published or isinstance(experiment.records, LocalRecords))


def has_damage(experiment: Experiment) -> bool:
    """Whether there are ordinary texts on which it can be measured what steering breaks."""
    return "damage" in plans(experiment)


def answers_questions(experiment: Experiment) -> bool:
    """Whether every feature of its layers is steered and judged, so that rules that pick one can be compared with the best there is, and
    its texts are labelled with the concepts."""
    every = isinstance(experiment.features, AllFeatures) and not isinstance(experiment.judge, NoJudge)
    return every and isinstance(experiment.concepts, TopicConcepts) and experiment.until == "figures"


def asks_of_effects(experiment: Experiment) -> bool:
    """Whether the effects of vectors are measured at other scales too."""
    return "effects" in plans(experiment) and bool(settings_of(experiment).effects.multiples)


def reads_later_layers(experiment: Experiment) -> bool:
    """Whether later layers' SAEs read the effects of vectors too."""
    return "effects" in plans(experiment) and settings_of(experiment).effects.n_at_later_layers > 0


def asks_of_persistence(experiment: Experiment) -> bool:
    """Whether texts are rated again stretch by stretch."""
    return experiment.until == "methods" and settings_of(experiment).stretch_words is not None


def figures(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """The figures that can be made of an experiment, each with the tables that it reads."""
    left_out = {"judge_kept_removed"} if isinstance(experiment.judge, NoJudge) else set()
    left_out |= set() if has_pmi(experiment) else {"pmi_by_threshold"}
    if experiment.until != "figures":
        left_out = {name for name, read in FIGURE_TABLES.items() if read != ("features",)}
    compared = dict(METHOD_FIGURE_TABLES) if experiment.until == "methods" else {}
    if compared and not has_damage(experiment):
        compared = {name: read for name, read in compared.items() if not set(read) & set(tables.DAMAGE_SUMMARIES)}
    if asks_of_effects(experiment):
        compared |= EFFECT_FIGURE_TABLES
    if asks_of_persistence(experiment):
        compared |= PERSISTENCE_FIGURE_TABLES
    answered = QUESTION_FIGURE_TABLES if answers_questions(experiment) else {}
    return {name: read for name, read in FIGURE_TABLES.items() if name not in left_out} | compared | answered


def reports(experiment: Experiment) -> list[str]:
    """What the rules make in an experiment's folder of figures."""
    headline = {"figures": ["headline.md"], "scores": [], "methods": ["methods.md"]}[experiment.until]
    return [*(f"{figure}.pdf" for figure in figures(experiment)), *headline]


def planned_outputs(name: str, workflow: Workflow, experiment: Experiment) -> list[str]:
    """The files that the workflow is asked for, for an experiment of this name."""
    data = [str(workflow.data_dir / name / path) for path in artifacts(experiment)]
    return [*data, *(str(workflow.figures_dir / name / path) for path in reports(experiment))]


def wanted(experiment: Experiment, step: str, layers: Sequence[int], files: Files) -> list[Wanted]:
    """The keys that a job of the step has to see to, each layer with its fingerprint.

    `files` holds the file behind each of the plan's inputs, and of the prefixes where the step has them.
    """
    plan = plans(experiment)[step]
    inputs = {name: files[name] for name in plan.inputs}
    common: dict[str, Any] = {"step": step, "algorithm_versions": plan.versions, "settings": plan.settings}
    wants = []
    for layer in layers:
        rows_read = upstream(experiment, step, layer, files)
        fingerprint = {**common, "inputs": {name: _input_digest(path, layer) for name, path in inputs.items()}}
        fingerprint |= {MEASURED_ON: "rows"} if rows_read else {}  # parts without the column are of another fingerprint
        wants.append(Wanted(layer, plan.keys.axes(experiment, layer, files), fingerprint, rows_read))
    return wants


def _input_digest(path: Path, layer: int) -> str:
    """The digest of what a step reads for one layer: a pin's, or the layer's fingerprint in the manifest of an earlier step."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return str(values["layers"][str(layer)]["fingerprint"] if "layers" in values else values["digest"])


def wants(experiment: Experiment, step: str, layers: Sequence[int]) -> dict[str, str]:
    """For a job's params: what its rows depend on besides its files, in words, so that `snakemake -n` shows what has changed. Needs no file
    that is still to be fetched."""
    plan = plans(experiment)[step]
    return {
        "rows": in_words({f"layer {layer}": plan.keys.configured(experiment, layer) for layer in layers}),
        "settings": in_words(plan.settings),
        "versions": in_words(plan.versions),
    }


def in_words(value: Any) -> str:
    """A JSON value as text; of a long one its digest, of a long mapping what it maps to in turn."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= MOST_WORDS:
        return text
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {in_words(inner)}" for name, inner in value.items()) + "}"
    size = f"{len(value)} values, " if isinstance(value, Sequence) and not isinstance(value, str) else ""
    return f"{size}digest {value_digest(value)[:16]}"


def n_missing(folder: Path, experiment: Experiment, step: str, layers: Sequence[int], files: Files) -> int | None:
    """How many keys a job would compute; None while what it reads is not there yet, or has to be made again."""
    plan = plans(experiment)[step]
    if not all(files[name].is_file() for name in files if name in {*plan.inputs, *FURTHER_FILES}):
        return None
    try:
        return sum(missing_keys(folder, plan.table, want).height for want in wanted(experiment, step, layers, files))
    except StoreError:  # what is wrong with the earlier step's rows, its own job sees to, or this one says when it reads them
        return None
