# Helpers of the rules: which files a job reads, for input. No rules here.

from pathlib import Path

from saesteer.workflow import plan
from saesteer.sources.pins import pinned_files, pinned_path
from saesteer.sources.published import kept_at


def figure_tables(wildcards):
    """For input: the summary tables that a figure reads."""
    tables = (FIGURE_TABLES | METHOD_FIGURE_TABLES)[wildcards.figure]
    return {table: f"{DATA}/{wildcards.experiment}/tables/{table}.parquet" for table in tables}


def manifests(step):
    """For input: a step's manifests of all layers."""

    def of_experiment(wildcards):
        groups = plan.layer_groups(EXPERIMENTS[wildcards.experiment])
        return [f"{DATA}/{wildcards.experiment}/{step}/{group}.json" for group in groups]

    return of_experiment


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


def prefixes_file(wildcards):
    """For input: the file of prefixes, one's own or a published one."""
    experiment = EXPERIMENTS[wildcards.experiment]
    path = str(sweep_prefixes(experiment))
    return path if experiment.sweep.prefixes else ancient(path)


def sweep_prefixes(experiment):
    """Where an experiment's prefixes are, or will be once they are fetched."""
    return experiment.sweep.prefixes or kept_at(experiment.sweep.published_prefixes, Path(DOWNLOADS))


def pmi_file(wildcards):
    """For input: the texts whose co-occurrences are counted."""
    experiment = EXPERIMENTS[wildcards.experiment]
    if experiment.pmi.published:
        return ancient(str(kept_at(experiment.pmi.published, Path(DOWNLOADS))))
    path = experiment.pmi.texts or experiment.records.texts
    return [str(path)] if path.exists() else []


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
    return [file for folder in folders for file in files_in(folder)]


def files_in(path):
    """The files that count of a folder or file; none while it is not there, for a dry run."""
    return [str(file) for file in pinned_files(path)] if path.exists() else []


def layer_manifests(step):
    """For input: a step's manifest of the job that a layer belongs to."""

    def of_layer(wildcards):
        groups = plan.layer_groups(EXPERIMENTS[wildcards.experiment])
        (group,) = [name for name, layers in groups.items() if int(wildcards.layer) in layers]
        return f"{DATA}/{wildcards.experiment}/{step}/{group}.json"

    return of_layer


def step_manifests(step):
    """For input: a step's manifests of all layers, or none where the experiment has no such step."""

    def of_experiment(wildcards):
        return manifests(step)(wildcards) if step in plan.plans(EXPERIMENTS[wildcards.experiment]) else []

    return of_experiment
