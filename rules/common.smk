# Helpers of the rules: the experiments, where their files are, and what makes a job due. No rules here.

import os
from pathlib import Path

from saesteer import plan
from saesteer.checks import check_files, check_present_files
from saesteer.code_digest import code_digest
from saesteer.figures.names import FIGURE_TABLES
from saesteer.files import explain_read_only, value_digest
from saesteer.judge.calls import check_key
from saesteer.pins import MODELS, model_settings, pinned_files, pinned_path
from saesteer.published import kept_at
from saesteer.settings import LocalRecords, TopicConcepts, load_experiment, load_workflow

WORKFLOW = load_workflow(config)
EXPERIMENTS = {name: load_experiment(name, WORKFLOW.experiments_dir) for name in WORKFLOW.experiments}
for name, experiment in EXPERIMENTS.items():
    check_present_files(name, experiment)
DATA, FIGURES = WORKFLOW.data_dir, WORKFLOW.figures_dir
DOWNLOADS = f"{DATA}/downloads"
if workflow.is_main_process:
    for folder in (folder / name for name in EXPERIMENTS for folder in (DATA, FIGURES)):
        explain_read_only(folder)
TABLES = f"{DATA}/{{experiment}}/tables"


wildcard_constraints:
    experiment="|".join(EXPERIMENTS),
    layers=r"layers_\d+-\d+",
    figure="|".join(FIGURE_TABLES),


def code(script, *modules):
    """Digest of a rule's script and of the package modules it uses: Snakemake itself notices only the script."""
    return code_digest(Path(workflow.basedir) / "scripts" / script, *modules)


def figure_code(wildcards):
    """For params: digest of the code of one figure, so that a change of one leaves the others alone."""
    return code("figure.py", f"saesteer.figures.{wildcards.figure}")


def figure_tables(wildcards):
    """For input: the summary tables that a figure reads."""
    return {table: f"{DATA}/{wildcards.experiment}/tables/{table}.parquet" for table in FIGURE_TABLES[wildcards.figure]}


def wants(step):
    """For params: digest of the keys and settings of a step in a job's layers."""

    def of_job(wildcards):
        experiment = EXPERIMENTS[wildcards.experiment]
        return plan.wants_digest(experiment, step, plan.layer_groups(experiment)[wildcards.layers])

    return of_job


def setting(*sections):
    """For params: the values of sections of the experiment file that a job reads."""

    def of_job(wildcards):
        experiment = EXPERIMENTS[wildcards.experiment].model_dump(mode="json")
        return value_digest([experiment[section] for section in sections])[:16]

    return of_job


def check_all_files():
    """For onstart: refuse a run, though not a dry run, of an experiment whose files are not all there."""
    for name, experiment in EXPERIMENTS.items():
        check_files(name, experiment)
        if experiment.judge.kind == "endpoint" and any(judge_has_work(name, group) for group in plan.layer_groups(experiment)):
            check_key(experiment.judge, os.environ)  # before any text is generated


def judge_has_work(name, group):
    """Whether a job of the judge will have something to ask, as far as can be known before what it reads is made."""
    experiment, folder = EXPERIMENTS[name], DATA / name
    files = {step: folder / step / f"{group}.json" for step in plan.plans(experiment)["judge"].inputs}
    return plan.n_missing(folder / "judge", experiment, "judge", plan.layer_groups(experiment)[group], files) != 0


def manifests(step):
    """For input: a step's manifests of all layers."""

    def of_experiment(wildcards):
        groups = plan.layer_groups(EXPERIMENTS[wildcards.experiment])
        return [f"{DATA}/{wildcards.experiment}/{step}/{group}.json" for group in groups]

    return of_experiment


def only(holds):
    """For wildcard_constraints: the experiments for which something holds; no name at all where it holds for none."""
    return "|".join(name for name, experiment in EXPERIMENTS.items() if holds(experiment)) or "(?!)"


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
    sweep = EXPERIMENTS[wildcards.experiment].sweep
    return str(sweep.prefixes) if sweep.prefixes else ancient(str(kept_at(sweep.published_prefixes, Path(DOWNLOADS))))


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


def asked_model(wildcards):
    """For params: which model is to be fetched, at which revision."""
    model = model_settings(EXPERIMENTS[wildcards.experiment], wildcards.name)
    return [model.repo, model.revision]


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


def step_manifests(step):
    """For input: a step's manifests of all layers, or none where the experiment has no such step."""

    def of_experiment(wildcards):
        return manifests(step)(wildcards) if step in plan.plans(EXPERIMENTS[wildcards.experiment]) else []

    return of_experiment
