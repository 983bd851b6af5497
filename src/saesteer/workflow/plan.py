"""What each step wants and what its rows depend on. No torch: this decides whether a job has anything to compute.

A step's fingerprint is closed: its settings, the ALGORITHM_VERSION of the module that computes it, and the digests of everything it reads.
Features, factors, prefixes and texts are keys, not settings: adding one leaves all other rows valid.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saesteer.core import tables
from saesteer.core.files import value_digest
from saesteer.core.store import Wanted, missing_keys
from saesteer.figures.names import FIGURE_TABLES, METHOD_FIGURE_TABLES, PMI_TABLES
from saesteer.settings import (
    Experiment,
    LanguageModelJudge,
    LocalRecords,
    NoJudge,
    OracleJudge,
    Settings,
    SweepSettings,
    TopicConcepts,
)
from saesteer.sources.corpus import text_ids
from saesteer.sources.features import features_of
from saesteer.sources.prefixes import read_prefixes
from saesteer.sources.published import published_file
from saesteer.workflow.code_digest import algorithm_version
from saesteer.workflow.plan_base import FILES_OF_KEYS, Axes, Files, StepPlan, language_model_judge
from saesteer.workflow.plan_methods import known_axes, method_steps


def plans(experiment: Experiment) -> dict[str, StepPlan]:
    """The steps of an experiment, in order. Which there are depends on where records come from, on who judges, and on where it stops."""
    scores = {**_record_steps(experiment), **_score_steps(experiment)}
    if experiment.until == "scores":
        return scores
    if experiment.until == "methods":
        return {**scores, **method_steps(experiment)}
    return {**scores, **_text_steps(experiment), **_judge_steps(experiment)}


def _score_steps(experiment: Experiment) -> dict[str, StepPlan]:
    """P1's two scores, and the lens tokens that both rest on."""
    dtype = {"dtype": experiment.model.dtype}
    lens, output = {"k": experiment.logit_lens.k, **dtype}, _values(experiment.output_score)
    output |= {**dtype, "bos": experiment.model.bos}  # its prompt is always plain
    read = ("model", "records", "logit_lens")
    return {
        "logit_lens": StepPlan(tables.LOGIT_LENS, "engine.logit_lens", _features, lens, ("model", "saes")),
        "input_score": StepPlan(tables.INPUT_SCORE, "analysis.input_score", _features, _values(experiment.input_score), read),
        "output_score": StepPlan(tables.OUTPUT_SCORE, "engine.output_score", _features, output, ("model", "saes", "logit_lens")),
    }


def _text_steps(experiment: Experiment) -> dict[str, StepPlan]:
    """Generated texts, and what is measured on them."""
    model, second = experiment.model, experiment.perplexity.model
    sampling = {**_sampling(experiment.sweep), **model.model_dump(mode="json", include={"dtype", "bos", "prompt_format"})}
    scoring = {**second.model_dump(mode="json", include={"dtype", "bos"}), "prompt_format": model.prompt_format}
    success = _values(experiment.gen_success)
    return {
        "sweep": StepPlan(tables.GENERATIONS, "engine.generate", _generations, sampling, ("model", "saes")),
        "gen_success": StepPlan(tables.GEN_SUCCESS, "analysis.gen_success", _generations, success, ("model", "sweep", "logit_lens")),
        "perplexity": StepPlan(tables.PERPLEXITY, "engine.perplexity", _generations, scoring, ("perplexity_model", "sweep")),
    }


def _record_steps(experiment: Experiment) -> dict[str, StepPlan]:
    """Feature records and the concepts that they show."""
    records, concepts, model = experiment.records, experiment.concepts, experiment.model
    steps = {}
    if isinstance(records, LocalRecords):
        on_texts = {"dtype": model.dtype, "bos": model.bos, "max_tokens": records.max_tokens}
        steps["activations"] = StepPlan(tables.ACTIVATIONS, "engine.activations", _texts, on_texts, ("model", "saes"))
        n_records = {"n_records": records.n_records}
        steps["records"] = StepPlan(tables.RECORDS, "analysis.records", _features, n_records, ("texts", "activations"))
    else:
        source = records.source or [experiment.saes.release, experiment.saes.id]
        of_source = {"source": source, "n_records": records.n_records}
        steps["records"] = StepPlan(tables.RECORDS, "sources.neuronpedia.convert", _features, of_source, ())
    if isinstance(concepts, TopicConcepts):
        steps["concepts"] = StepPlan(
            tables.CONCEPTS, "analysis.concepts", _features, {"min_share": concepts.min_share}, ("texts", "topics", "records")
        )
    else:
        steps["concepts"] = StepPlan(tables.CONCEPTS, "analysis.concepts", _features, {"kind": concepts.kind}, ("records",))
    return steps


def _judge_steps(experiment: Experiment) -> dict[str, StepPlan]:
    judge = experiment.judge
    if isinstance(judge, NoJudge):
        return {}
    if isinstance(judge, OracleJudge):
        read = ("oracle", "topics", "concepts", "sweep", "perplexity")
        return {"judge": StepPlan(tables.JUDGEMENTS, "world.oracle_rating", _generations, {"kind": judge.kind}, read)}
    settings, pins = language_model_judge(experiment, judge)
    return {"judge": StepPlan(tables.JUDGEMENTS, "judge.rate_llm", _judged, settings, (*pins, "concepts", "sweep"))}


def _values(section: Settings) -> dict[str, Any]:
    return section.model_dump(mode="json")


def _features(experiment: Experiment, layer: int, files: Files) -> Axes:
    return {"feature": features_of(experiment, layer)}


def _texts(experiment: Experiment, layer: int, files: Files) -> Axes:
    assert isinstance(experiment.records, LocalRecords)
    return {"text_id": text_ids(experiment.records.texts)}


def _generations(experiment: Experiment, layer: int, files: Files) -> Axes:
    return _with_prefixes(experiment, layer, files, experiment.sweep.n_prefixes)


def _judged(experiment: Experiment, layer: int, files: Files) -> Axes:
    assert isinstance(experiment.judge, LanguageModelJudge)
    return _with_prefixes(experiment, layer, files, experiment.judge.n_prefixes or experiment.sweep.n_prefixes)


def _with_prefixes(experiment: Experiment, layer: int, files: Files, n: int) -> Axes:
    sweep = experiment.sweep
    path = sweep.prefixes or files["prefixes_file"]
    prefixes = read_prefixes(path, min(n, sweep.n_prefixes))
    return {
        "feature": features_of(experiment, layer),
        "factor": sweep.factors,
        "prefix_id": list(prefixes),
        "sample": range(sweep.n_samples),
    }


def _sampling(sweep: SweepSettings) -> dict[str, Any]:
    return sweep.model_dump(mode="json", include={"max_new_tokens", "temperature", "top_k", "stop", "seed"})


def layer_groups(experiment: Experiment) -> dict[str, tuple[int, ...]]:
    """Name -> layers of each job's group, e.g. layers_00-03."""
    size, layers = experiment.layers_per_job, sorted(experiment.layers)
    chunks = [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]
    return {f"layers_{chunk[0]:02d}-{chunk[-1]:02d}": chunk for chunk in chunks}


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
        return [*always, *scored, *(f"tables/{name}.parquet" for name in tables.METHOD_SUMMARIES)]
    summaries = [name for name in tables.SUMMARIES if has_pmi(experiment) or name not in PMI_TABLES]
    return [*always, *(f"tables/{name}.parquet" for name in summaries), "metrics.json"]


def pins(experiment: Experiment) -> list[str]:
    """Names of the models and files whose digests the steps depend on."""
    steps = plans(experiment)
    return sorted({name for step in steps.values() for name in step.inputs} - {"saes", *steps})


def has_pmi(experiment: Experiment) -> bool:
    """Whether there are texts whose co-occurrences can be counted."""
    return bool(experiment.pmi.texts or experiment.pmi.published or isinstance(experiment.records, LocalRecords))


def figures(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """The figures that can be made of an experiment, each with the tables that it reads."""
    left_out = {"judge_kept_removed"} if isinstance(experiment.judge, NoJudge) else set()
    left_out |= set() if has_pmi(experiment) else {"pmi_by_threshold"}
    if experiment.until != "figures":
        left_out = {name for name, read in FIGURE_TABLES.items() if read != ("features",)}
    compared = METHOD_FIGURE_TABLES if experiment.until == "methods" else {}
    return {name: read for name, read in FIGURE_TABLES.items() if name not in left_out} | compared


def reports(experiment: Experiment) -> list[str]:
    """What the rules make in an experiment's folder of figures."""
    headline = {"figures": ["headline.md"], "scores": [], "methods": ["methods.md"]}[experiment.until]
    return [*(f"{figure}.pdf" for figure in figures(experiment)), *headline]


def wanted(experiment: Experiment, step: str, layers: Sequence[int], files: Mapping[str, Path]) -> list[Wanted]:
    """The keys that a job of the step has to see to, each layer with its fingerprint.

    `files` holds the file behind each of the plan's inputs, and of the prefixes where the step has them.
    """
    plan = plans(experiment)[step]
    inputs = {name: files[name] for name in plan.inputs}
    common = {"step": step, "algorithm_version": algorithm_version(f"saesteer.{plan.module}"), "settings": plan.settings}
    return [
        Wanted(
            layer,
            plan.axes(experiment, layer, files),
            {**common, "inputs": {name: _input_digest(path, layer) for name, path in inputs.items()}},
        )
        for layer in layers
    ]


def _input_digest(path: Path, layer: int) -> str:
    """The digest of what a step reads for one layer: a pin's, or the layer's fingerprint in the manifest of an earlier step."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return str(values["layers"][str(layer)]["fingerprint"] if "layers" in values else values["digest"])


def wants_digest(experiment: Experiment, step: str, layers: Sequence[int]) -> str:
    """Digest of keys and settings; in a job's params a change of it makes the job due. Needs no file that is still to be fetched."""
    plan = plans(experiment)[step]
    axes = {layer: known_axes(experiment, plan, layer) or _known_axes(experiment, plan, layer) for layer in layers}
    return value_digest([axes, plan.settings, algorithm_version(f"saesteer.{plan.module}")])[:16]


def _known_axes(experiment: Experiment, plan: StepPlan, layer: int) -> dict[str, Any]:
    """A layer's keys as far as the configuration says them: texts are input files instead, published prefixes are pinned by a digest."""
    if plan.axes is _texts:
        return {}
    if plan.axes is _features:
        return {"feature": list(features_of(experiment, layer))}
    sweep = experiment.sweep
    if sweep.prefixes:
        return {name: list(values) for name, values in plan.axes(experiment, layer, {}).items()}
    n_judged = experiment.judge.n_prefixes if isinstance(experiment.judge, LanguageModelJudge) and plan.axes is _judged else None
    prefixes = [published_file(str(sweep.published_prefixes)).identity, sweep.n_prefixes, n_judged]
    return {"feature": list(features_of(experiment, layer)), "factor": sweep.factors, "prefixes": prefixes, "samples": sweep.n_samples}


def n_missing(folder: Path, experiment: Experiment, step: str, layers: Sequence[int], files: Files) -> int | None:
    """How many keys a job would compute; None while what it reads is not there yet."""
    plan = plans(experiment)[step]
    if not all(files[name].is_file() for name in files if name in {*plan.inputs, *FILES_OF_KEYS}):
        return None
    return sum(missing_keys(folder, plan.table, want).height for want in wanted(experiment, step, layers, files))
