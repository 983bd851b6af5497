# Helpers of the rules: the files of one's own, and those that were fetched, that a job reads, for input. No rules here.

from pathlib import Path

from saesteer.workflow import plan
from saesteer.workflow.steps import ordinary_pin
from saesteer.sources.pins import MODEL_FILES, SAE_FILES, pinned_files, pinned_path
from saesteer.sources.published import kept_at


def file_of(name):
    """For input: the file that an experiment names; nothing while it is not there, for a dry run."""

    def of_experiment(wildcards):
        path = pinned_path(EXPERIMENTS[wildcards.experiment], name)
        return [str(path)] if path and path.exists() else []

    return of_experiment


def fetched(name):
    """For input: where a model from the hub was put. What is computed from it depends on its pin; on this only that it is there."""

    def of_experiment(wildcards):
        hub = pinned_path(EXPERIMENTS[wildcards.experiment], name) is None
        return [ancient(f"{DOWNLOADS}/{wildcards.experiment}/{name}.json")] if hub else []

    return of_experiment


def fetched_saes(wildcards):
    """For input: where a job's SAEs from the hub were put."""
    hub = EXPERIMENTS[wildcards.experiment].saes.from_hub
    return [ancient(f"{DOWNLOADS}/{wildcards.experiment}/saes/{wildcards.layers}.json")] if hub else []


def all_fetched_saes(wildcards):
    """For input: where the SAEs of all layers from the hub were put."""
    experiment = EXPERIMENTS[wildcards.experiment]
    groups = plan.layer_groups(experiment) if experiment.saes.from_hub else ()
    return [ancient(f"{DOWNLOADS}/{wildcards.experiment}/saes/{group}.json") for group in groups]


def prompts_file(wildcards):
    """For input: the file of the sweep's prefixes or of the comparison's prompts, one's own or a published one."""
    experiment = EXPERIMENTS[wildcards.experiment]
    path = prompts_path(experiment, Path(DOWNLOADS))
    own = experiment.methods.prompts if experiment.until == "methods" else experiment.sweep.prefixes
    return str(path) if own else ancient(str(path))


def pmi_file(wildcards):
    """For input: the texts whose co-occurrences are counted."""
    experiment = EXPERIMENTS[wildcards.experiment]
    if experiment.pmi.published:
        return ancient(str(kept_at(experiment.pmi.published, Path(DOWNLOADS))))
    path = experiment.pmi.texts or experiment.records.texts
    return [str(path)] if path.exists() else []


def ordinary_texts_file(wildcards):
    """For input: the texts on which it is measured what steering breaks."""
    return file_of(ordinary_pin(EXPERIMENTS[wildcards.experiment]) or "texts")(wildcards)


def sae_files(wildcards):
    """For input: the SAEs' files of a job's layers, as published; or where those from the hub were put."""
    experiment = EXPERIMENTS[wildcards.experiment]
    if experiment.saes.from_hub:
        return fetched_saes(wildcards)
    folders = [Path(experiment.saes.path.format(layer=layer)) for layer in plan.layer_groups(experiment)[wildcards.layers]]
    return [file for folder in folders for file in files_in(folder, SAE_FILES)]


def files_in(path, patterns=MODEL_FILES):
    """The files that count of a folder or file; none while it is not there, for a dry run."""
    return [str(file) for file in pinned_files(path, patterns)] if path.exists() else []


def topic_files(wildcards):
    """For input: the labelled texts and the topics' names, where concepts are topics."""
    topics = isinstance(EXPERIMENTS[wildcards.experiment].concepts, TopicConcepts)
    return {f"{name}_file": file_of(name)(wildcards) for name in ("texts", "topics")} if topics else {}


def oracle_files(wildcards):
    """For input: what the shipped world's oracle reads besides."""
    if EXPERIMENTS[wildcards.experiment].judge.kind != "oracle":
        return {}
    return {"topics_file": file_of("topics")(wildcards), "model_files": fetched("model")(wildcards)}


def judge_counts(wildcards):
    """For input: how often the shipped world's judge was measured to give each rating, where its folder says so."""
    judge = EXPERIMENTS[wildcards.experiment].judge
    path = judge.oracle / "text_judge.json" if judge.kind == "oracle" else None
    return [str(path)] if path and path.exists() else []


def concept_sources(wildcards):
    """For input: the grammar's words, texts of one's own, or the published list of concepts and its training texts."""
    concepts = EXPERIMENTS[wildcards.experiment].methods.concepts
    if isinstance(concepts, TopicTexts):
        return [str(path) for path in (concepts.lexicon, concepts.openers) if path.exists()]
    if isinstance(concepts, OwnTexts):
        return [str(concepts.texts)] if concepts.texts.exists() else []
    return [ancient(str(kept_at(key, Path(DOWNLOADS)))) for key in (concepts.concepts, concepts.texts)]


def model_origin(wildcards):
    """For params: which model is to be fetched, at which revision."""
    model = model_settings(EXPERIMENTS[wildcards.experiment], wildcards.name)
    return [model.repo or str(model.path), model.revision]
