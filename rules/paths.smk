# Helpers of the rules: the files of one's own, and those that were fetched, that a job reads, for input. No rules here.

from pathlib import Path

from saesteer.workflow import plan
from saesteer.workflow.steps import ordinary_pin
from saesteer.sources.pins import MODEL_FILES, SAE_FILES, pinned_files, pinned_path
from saesteer.sources.published import kept_at


def file_of(name):
    """For input: the file that an experiment names."""
    return lambda wildcards: present(pinned_path(EXPERIMENTS[wildcards.experiment], name))


def present(*paths):
    """Those that there are; nothing is missing for a dry run."""
    return [str(path) for path in paths if path and path.exists()]


def fetched(name):
    """For input: where a model from the hub was put. What is computed from it depends on its pin; on this only that it is there."""
    return lambda wildcards: (
        [] if pinned_path(EXPERIMENTS[wildcards.experiment], name) else [ancient(f"{DOWNLOADS}/{wildcards.experiment}/{name}.json")]
    )


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
    return str(path) if own_prompts(experiment) else ancient(str(path))


def pmi_file(wildcards):
    """For input: the texts whose co-occurrences are counted."""
    experiment = EXPERIMENTS[wildcards.experiment]
    if experiment.pmi.published:
        return ancient(str(kept_at(experiment.pmi.published, Path(DOWNLOADS))))
    return present(experiment.pmi.texts or experiment.records.texts)


def ordinary_texts_file(wildcards):
    """For input: the texts on which it is measured what steering breaks."""
    return file_of(ordinary_pin(EXPERIMENTS[wildcards.experiment]) or "texts")(wildcards)


def files_to_pin(wildcards):
    """For input: the files behind a pin, or where a model from the hub was put."""
    path = pinned_path(EXPERIMENTS[wildcards.experiment], wildcards.name)
    return files_in(path) if path else fetched(wildcards.name)(wildcards)


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
    return present(judge.oracle / "text_judge.json" if judge.kind == "oracle" else None)


def concept_sources(wildcards):
    """For input: the grammar's words, texts of one's own, or the published list of concepts and its training texts."""
    concepts = EXPERIMENTS[wildcards.experiment].methods.concepts
    if isinstance(concepts, TopicTexts):
        return present(concepts.lexicon, concepts.openers)
    if isinstance(concepts, OwnTexts):
        return present(concepts.texts)
    return [ancient(str(kept_at(key, Path(DOWNLOADS)))) for key in (concepts.concepts, concepts.texts)]


def pinned(wildcards):
    """For params: what a pin is of."""
    return model_origin(wildcards) if wildcards.name in MODELS else str(pinned_path(EXPERIMENTS[wildcards.experiment], wildcards.name))


def model_origin(wildcards):
    """For params: which model is to be fetched, at which revision."""
    model = model_settings(EXPERIMENTS[wildcards.experiment], wildcards.name)
    return [model.repo or str(model.path), model.revision]
