"""saesteer: max-activating examples -> scores -> selection -> sweep -> judge -> figures, for each experiment of the configuration."""

from snakemake.utils import min_version

min_version("9.27")

# A workflow that includes this one has a configuration of its own.
if len(workflow.included_stack) == 1:

    configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/params.smk"
include: "rules/paths.smk"
include: "rules/artifacts.smk"
include: "rules/cluster.smk"


onstart:
    check_all_files()
    cancel_left_jobs(Path())
    check_times_of_inputs(record_run(Path()))


onsuccess:
    print_findings()


onerror:
    logger.error(failed_jobs())


localrules:
    all,


rule all:
    """Every figure, table and manifest of every experiment (workflow.outputs says why not the figures only)."""
    input:
        [planned_outputs(RUNS[name]) for name in WORKFLOW.experiments],


include: "rules/fetch.smk"
include: "rules/inputs.smk"
include: "rules/max_activating_examples.smk"
include: "rules/concepts.smk"
include: "rules/logit_lens.smk"
include: "rules/scores.smk"
include: "rules/texts.smk"
include: "rules/measures.smk"
include: "rules/judge.smk"
include: "rules/explanations.smk"
include: "rules/summaries.smk"
include: "rules/selection.smk"
include: "rules/headline.smk"
include: "rules/figures.smk"
include: "rules/methods.smk"
include: "rules/fits.smk"
include: "rules/damage.smk"
