# Helpers of the rules, for input: files that an experiment names. No rules here.

from pathlib import Path

from saesteer.settings import LabelledTexts, TopicTexts
from saesteer.sources.pins import MODEL_FILES, SAE_FILES, model_settings, pinned_files, pinned_path, pmi_file
from saesteer.sources.prefixes import prompt_source
from saesteer.sources.published import cached_path
from saesteer.steps.pilot import ordinary_texts_pin


def present(*paths):
    """Those that there are; nothing is missing for a dry run."""
    return [str(path) for path in paths if path and path.exists()]


def files_in(path, patterns=MODEL_FILES):
    """The files that count of a folder or file; none while it is not there, for a dry run."""
    return [str(file) for file in pinned_files(path, patterns)] if path.exists() else []


def file_of(name):
    """The data file that an experiment names."""
    return lambda wildcards: present(pinned_path(EXPERIMENTS[wildcards.experiment], name))


def prompts(wildcards):
    """The prefixes of a sweep, or the prompts of a comparison: the experiment's file, or a published one that was fetched."""
    run = RUNS[wildcards.experiment]
    return str(run.prompts_path) if prompt_source(run.experiment).file else ancient(str(run.prompts_path))


def texts_of_pmi(wildcards):
    """The texts whose co-occurrences are counted."""
    experiment = EXPERIMENTS[wildcards.experiment]
    path = pmi_file(experiment, Path(DOWNLOADS))
    return ancient(str(path)) if experiment.pmi.published else present(path)


def ordinary_texts(wildcards):
    """The texts on which it is measured what steering breaks, and their pin."""
    pin = ordinary_texts_pin(EXPERIMENTS[wildcards.experiment])
    return [f"{PINS.format(**wildcards)}/{pin}.json", *file_of(pin)(wildcards)]


def texts_of_fits_pilot(wildcards):
    """The same where a comparison has a pilot."""
    return ordinary_texts(wildcards) if EXPERIMENTS[wildcards.experiment].methods.pilot else []


def equal_cost_table(wildcards):
    """The methods' scores at equal cost; nothing where there are no ordinary texts."""
    return f"{TABLES}/method_equal_cost.parquet".format(**wildcards) if ordinary_texts_pin(EXPERIMENTS[wildcards.experiment]) else []


def concept_sources(wildcards):
    """The grammar's words or texts of one's own, with the prompts that no text may go on from; or the published list of concepts and its
    training texts."""
    compared = EXPERIMENTS[wildcards.experiment].methods
    concepts = compared.concepts
    if isinstance(concepts, TopicTexts):
        return present(concepts.lexicon, concepts.openers, compared.prompts)
    if isinstance(concepts, LabelledTexts):
        return present(concepts.texts, compared.prompts)
    return [ancient(str(cached_path(key, Path(DOWNLOADS)))) for key in (concepts.concepts, concepts.texts)]


def labelled_topics(wildcards):
    """The texts whose tokens carry topics, and the topics, with their pins; nothing where concepts are of another kind."""
    if EXPERIMENTS[wildcards.experiment].concepts.kind != "topics":
        return []
    return [file for name in ("texts", "topics") for file in (f"{PINS.format(**wildcards)}/{name}.json", *file_of(name)(wildcards))]


def topics_of_judge(wildcards):
    """The topics that the judge of a shipped world rates; nothing for another judge."""
    return file_of("topics")(wildcards) if EXPERIMENTS[wildcards.experiment].judge.kind == "oracle" else []


def files_of_embedder(wildcards):
    """The sentence-embedding model that judges, and the examples that features stand for; nothing for another judge."""
    if EXPERIMENTS[wildcards.experiment].judge.kind != "embedding":
        return []
    pin = f"{PINS}/judge_model.json".format(**wildcards)
    return [pin, *fetched("judge_model")(wildcards), *manifests("max_activating_examples")(wildcards)]


def files_to_pin(wildcards):
    """The files behind a pin, or where a model was fetched to."""
    path = pinned_path(EXPERIMENTS[wildcards.experiment], wildcards.name)
    if path is None and gguf_file(wildcards):  # which may be edited
        return f"{DOWNLOADS}/{wildcards.experiment}/{wildcards.name}.json"
    return files_in(path) if path else fetched(wildcards.name)(wildcards)


def sae_files(wildcards):
    """The SAEs' files of a job's layers, as published; or where those from the hub were put."""
    experiment = EXPERIMENTS[wildcards.experiment]
    if experiment.saes.from_hub:
        return fetched_saes(wildcards)
    folders = [Path(experiment.saes.path.format(layer=layer)) for layer in experiment.layer_groups[wildcards.layers]]
    return [file for folder in folders for file in files_in(folder, SAE_FILES)]


def pinned(wildcards):
    """For params: what a pin is of."""
    return model_origin(wildcards) if wildcards.name in MODELS else str(pinned_path(EXPERIMENTS[wildcards.experiment], wildcards.name))


def model_origin(wildcards):
    """For params: which model is to be fetched, at which revision."""
    model = model_settings(EXPERIMENTS[wildcards.experiment], wildcards.name)
    package = [model.package.model_dump(mode="json")] if model.package else []
    return [model.repo or str(model.path), model.revision, *package]


def gguf_file(wildcards):
    """The GGUF file that an experiment names; nothing for a model from elsewhere."""
    return present(model_settings(EXPERIMENTS[wildcards.experiment], wildcards.name).gguf)
