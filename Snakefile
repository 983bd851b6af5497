"""saesteer: records -> scores -> selection -> sweep -> judge -> figures, for each experiment of the configuration."""

from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/paths.smk"
include: "rules/artifacts.smk"
include: "rules/cluster.smk"


onstart:
    check_all_files()
    cancel_left_jobs(Path())
    record_run(Path())


onerror:
    logger.error(failed_jobs())


rule all:
    """Every figure, table and manifest of every experiment (plan.planned_outputs says why not the figures only)."""
    input:
        [plan.planned_outputs(RUNS[name]) for name in WORKFLOW.experiments],


include: "rules/fetch.smk"
include: "rules/inputs.smk"
include: "rules/records.smk"
include: "rules/scores.smk"
include: "rules/texts.smk"
include: "rules/judge.smk"
include: "rules/summaries.smk"
include: "rules/selection.smk"
include: "rules/figures.smk"
include: "rules/methods.smk"
include: "rules/fits.smk"
include: "rules/damage.smk"
include: "rules/open_questions.smk"
include: "rules/effect_questions.smk"


# Each job's log and benchmark are named after its rule and wildcards; all run in one environment.
for made in (each for each in workflow.rules if each.script):
    folders = ["logs", "{experiment}"] if "experiment" in made.wildcard_names else ["logs"]
    file = Path(*folders, made.name, *(f"{{{name}}}" for name in sorted(made.wildcard_names - {"experiment"})))
    made.log_modifier = made.benchmark_modifier = made.output_modifier
    made.set_log(f"{file}.log")
    made.benchmark = f"{file}.tsv"
    made.conda_env = "../envs/saesteer.yaml"

# What asks for no GPU is light, or needs the internet: it runs where Snakemake runs. The rest goes to the cluster, where there is one.
workflow.localrules(*(rule.name for rule in workflow.rules if "gpu" not in rule.resources))
