# Helpers of the rules: the experiments and their places. No rules here.

import gc
import os
from pathlib import Path

from snakemake.common.configfile import load_configfile

from saesteer.core.files import check_braces, check_temporary_folder, explain_read_only, file_digest
from saesteer.core.machine import complete_environment
from saesteer.core.shipped import SHIPPED
from saesteer.figures.registry import FIGURES
from saesteer.run import Run
from saesteer.settings import Comparison, Scores, Sweep, load_experiment, load_workflow
from saesteer.sources.pins import MODELS, pinned_path
from saesteer.summaries.summary import summaries
from saesteer.workflow import plan
from saesteer.workflow.checks import check_contents, check_files, check_present_files, check_times, check_tokens
from saesteer.workflow.code_digest import PACKAGE
from saesteer.workflow.outputs import planned_outputs
from saesteer.workflow.project import bring_inputs, check_configfile
from saesteer.workflow.terminal import show_refusals_alone

# Parsing the rules and the modules behind them makes objects that stay: to look for garbage among them takes a tenth of a dry run.
gc.set_threshold(100_000, 50, 50)

if workflow.is_main_process:
    show_refusals_alone(logger)
    complete_environment()
    check_braces(SHIPPED)

SCRIPTS = SHIPPED / "scripts"
if workflow.is_main_process and not workflow.modifier.skip_configfile:
    for path in workflow.configfiles:
        check_configfile(Path(path), load_configfile(path))
WORKFLOW = load_workflow(config)
NAMES = dict.fromkeys([*WORKFLOW.experiments, *WORKFLOW.methods])
EXPERIMENTS = {name: load_experiment(name, *WORKFLOW.all_experiments_dirs) for name in NAMES}
RUNS = {name: Run(WORKFLOW, name, experiment) for name, experiment in EXPERIMENTS.items()}
if workflow.is_main_process:
    for path in (path for experiment in EXPERIMENTS.values() for path in bring_inputs(experiment)):
        logger.info(f"{path} comes with saesteer: copied here")
for name, experiment in EXPERIMENTS.items():
    check_present_files(name, experiment)
if workflow.is_main_process:
    for folder in (folder for run in RUNS.values() for folder in (run.data, run.figures)):
        explain_read_only(folder)

# Where files are. {experiment} and {layers} (what one job covers) are filled in by Snakemake.
DATA = f"{WORKFLOW.data_dir}/{{experiment}}"
TABLES, PINS = f"{DATA}/tables", f"{DATA}/pins"
FIGURES_DIR = f"{WORKFLOW.figures_dir}/{{experiment}}"
DOWNLOADS = f"{WORKFLOW.data_dir}/downloads"
REPORT_ASSETS = PACKAGE / "site/assets/assets.json"


wildcard_constraints:
    experiment="|".join(EXPERIMENTS).replace(".", r"\."),  # the one character of names that patterns take otherwise
    layers=r"layers_\d+-\d+(_features_\d+)?",  # the job's layers, and where its share of their features begins
    figure="|".join(FIGURES),


def only(holds):
    """For wildcard_constraints: the experiments for which something holds; no name at all where it holds for none."""
    return "|".join(name for name, experiment in EXPERIMENTS.items() if holds(experiment)).replace(".", r"\.") or "(?!)"


def fetched(name):
    """Where a model was fetched or converted to; nothing where it is in a folder. What is computed from it depends on its pin; on this only
    that it is there."""
    return lambda wildcards: (
        [] if pinned_path(EXPERIMENTS[wildcards.experiment], name) else [ancient(f"{DOWNLOADS}/{wildcards.experiment}/{name}.json")]
    )


def fetched_saes(wildcards):
    """Where a job's SAEs from the hub were put; nothing where they are in a folder."""
    (manifest,) = job_manifests("saes")(wildcards)
    hub = EXPERIMENTS[wildcards.experiment].saes.from_hub
    return [ancient(f"{DOWNLOADS}/{wildcards.experiment}/saes/{Path(manifest).name}")] if hub else []


def job_manifests(step):
    """An earlier step's manifests of a job's layers and features."""

    def of_job(wildcards):
        run, layers = RUNS[wildcards.experiment].of_job(wildcards.layers)
        return [str(path) for path in run.manifests(step, layers)]

    return of_job


def check_all_files():
    """For onstart: refuse a run, though not a dry run, of an experiment whose files are not all there."""
    check_temporary_folder()
    for name, experiment in EXPERIMENTS.items():
        check_files(name, experiment)
        check_contents(experiment)
        if experiment.model.folder:
            check_tokens(experiment, experiment.model.folder)
        if not isinstance(experiment, Scores) and judge_of(experiment) is None:
            logger.warning(f"{name}: no judge is configured, so its figures are left out; docs/judges.md says how to add one.")
        if not DEFAULTS:  # jobs run on this machine
            plan.check_bfloat16(RUNS[name])
        for endpoint in plan.endpoints_to_ask(RUNS[name]):
            from saesteer.judge.endpoint import check_key

            check_key(endpoint, os.environ)  # before any text is generated


def check_times_of_inputs(now):
    """For onstart: refuse a run whose jobs read files with a time in the future, while nothing is removed yet. What these jobs make
    themselves gets a new time."""
    jobs = list(workflow.dag.needrun_jobs())
    made = {file for job in jobs for file in job.output}
    check_times((Path(file) for job in jobs for file in job.input if file not in made), now)
