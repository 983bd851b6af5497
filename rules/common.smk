# Helpers of the rules: the experiments, where their files are, and what makes a job due. No rules here.

import functools
import gc
import os
from pathlib import Path

from saesteer.workflow import plan
from saesteer.workflow.checks import check_files, check_present_files, check_tokens
from saesteer.workflow.code_digest import code_digest
from saesteer.workflow.steps import plans
from saesteer.figures.names import ALL_FIGURE_TABLES, CAPTIONS
from saesteer.core.files import explain_read_only, file_digest
from saesteer.settings.registry import METHODS, TABLE as METHODS_TABLE
from saesteer.sources.prefixes import own_prompts, prompts_path
from saesteer.sources.pins import MODELS, model_settings, pinned_path
from saesteer.settings import LocalRecords, OwnTexts, TopicConcepts, TopicTexts, load_experiment, load_workflow
from saesteer.core.tables import EFFECT_QUESTIONS, METHOD_SUMMARIES, QUESTION_SUMMARIES

# Parsing the rules and the modules behind them makes objects that stay: to look for garbage among them takes a tenth of a dry run.
gc.set_threshold(100_000, 50, 50)

SCRIPTS = Path(workflow.basedir) / "scripts"
WORKFLOW = load_workflow(config)
NAMES = dict.fromkeys([*WORKFLOW.experiments, *WORKFLOW.methods, *WORKFLOW.open_questions])
EXPERIMENTS = {name: load_experiment(name, WORKFLOW.experiments_dir) for name in NAMES}
for name, experiment in EXPERIMENTS.items():
    check_present_files(name, experiment)
DATA, FIGURES = WORKFLOW.data_dir, WORKFLOW.figures_dir
if workflow.is_main_process:
    for folder in (folder / name for name in EXPERIMENTS for folder in (DATA, FIGURES)):
        explain_read_only(folder)
DOWNLOADS, TABLES = f"{DATA}/downloads", f"{DATA}/{{experiment}}/tables"
REPORT_ASSETS = Path(workflow.basedir) / "src/saesteer/report/site/assets/assets.json"


wildcard_constraints:
    experiment="|".join(EXPERIMENTS).replace(".", r"\."),  # the one character of names that patterns take otherwise
    layers=r"layers_\d+-\d+",
    figure="|".join(ALL_FIGURE_TABLES),


def code(script, *modules):
    """For params: digest of a rule's script and of the package modules it uses, since Snakemake notices the script only. A function, so
    that it is computed for the rules that are asked for."""
    return lambda wildcards: code_digest(SCRIPTS / script, *modules)


def figure_code(wildcards):
    """For params: digest of the code of one figure, so that a change of one leaves the others alone."""
    return code_digest(SCRIPTS / "figure.py", f"saesteer.figures.{wildcards.figure}")


def figure_caption(wildcards):
    """For params: how a figure is to be read."""
    return CAPTIONS[wildcards.figure]


@functools.cache
def wants_of(step, name, group):
    """What plan.wants says of a job."""
    return plan.wants(EXPERIMENTS[name], step, plan.layer_groups(EXPERIMENTS[name])[group])


@functools.cache
def steps_of(name):
    """The steps of an experiment."""
    return plans(EXPERIMENTS[name])


def wants(step):
    """For params: keys, settings and versions of a step in a job's layers, in words."""

    def of(name):
        return lambda wildcards: wants_of(step, wildcards.experiment, wildcards.layers)[name]

    return {name: of(name) for name in ("rows", "settings", "versions")}


def setting(*sections):
    """For params: the values of sections of the experiment file that a job reads, in words."""

    def of_job(wildcards):
        experiment = EXPERIMENTS[wildcards.experiment].model_dump(mode="json")
        return plan.in_words({section: experiment[section] for section in sections})

    return of_job


def check_all_files():
    """For onstart: refuse a run, though not a dry run, of an experiment whose files are not all there."""
    for name, experiment in EXPERIMENTS.items():
        check_files(name, experiment)
        if experiment.model.path:
            check_tokens(experiment, experiment.model.path)
        if experiment.judge.kind == "none" and experiment.until == "figures":
            logger.info(f"{name}: no judge is configured, so its figures are left out; README, Judges, says how to add one.")
        asks = experiment.judge.kind == "endpoint" and "judge" in steps_of(name)
        judges = asks and any(judge_has_work(name, group) for group in plan.layer_groups(experiment))
        writer = experiment.methods.prompt_writer if experiment.until == "methods" else None
        writes = writer and not (DATA / name / "steering_prompts/prompts.parquet").exists()
        for endpoint in [experiment.judge] * bool(judges) + [writer] * bool(writes):
            from saesteer.judge.endpoint import check_key

            check_key(endpoint, os.environ)  # before any text is generated


def judge_has_work(name, group):
    """Whether a job of the judge will have something to ask, as far as can be known before what it reads is made."""
    experiment, folder = EXPERIMENTS[name], DATA / name
    files = {read: folder / read / f"{group}.json" for read in steps_of(name)["judge"].inputs}
    files["prefixes_file"] = prompts_path(experiment, Path(DOWNLOADS))
    files |= {"asked_concepts": folder / "tables/asked_concepts.parquet"} if experiment.until == "methods" else {}
    return plan.n_missing(folder / "judge", experiment, "judge", plan.layer_groups(experiment)[group], files) != 0


def only(holds):
    """For wildcard_constraints: the experiments for which something holds; no name at all where it holds for none."""
    return "|".join(name for name, experiment in EXPERIMENTS.items() if holds(experiment)).replace(".", r"\.") or "(?!)"
