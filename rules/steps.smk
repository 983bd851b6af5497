# Helpers of the rules: the pins, manifests and tables that a job reads, for input. No rules here.

from saesteer.judge.prompt_writing import prompts_fingerprint
from saesteer.workflow import plan


def figure_tables(wildcards):
    """For input: the summary tables that a figure reads."""
    tables = ALL_FIGURE_TABLES[wildcards.figure]
    return {table: f"{DATA}/{wildcards.experiment}/tables/{table}.parquet" for table in tables}


def manifests(step):
    """For input: a step's manifests of all layers."""

    def of_experiment(wildcards):
        groups = plan.layer_groups(EXPERIMENTS[wildcards.experiment])
        return [f"{DATA}/{wildcards.experiment}/{step}/{group}.json" for group in groups]

    return of_experiment


def layer_files(folder):
    """For input: the tables that jobs of some layers each have made, of all layers."""

    def of_experiment(wildcards):
        return [f"{DATA}/{wildcards.experiment}/{folder}/{group}.parquet" for group in plan.layer_groups(EXPERIMENTS[wildcards.experiment])]

    return of_experiment


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
        return manifests(step)(wildcards) if step in steps_of(wildcards.experiment) else []

    return of_experiment


def step_inputs(step):
    """For input: what a step depends on: pins, manifests, and where its models and SAEs from the hub were put; nothing where the experiment
    has no such step."""

    def of_job(wildcards):
        steps = steps_of(wildcards.experiment)
        names, made = steps[step].inputs if step in steps else (), {"saes", *steps}
        folder = f"{DATA}/{wildcards.experiment}"
        files = {name: f"{folder}/{name}/{wildcards.layers}.json" if name in made else f"{folder}/pins/{name}.json" for name in names}
        places = {f"{name}_files": fetched(name)(wildcards) for name in names if name in MODELS}
        return files | places | ({"sae_files": fetched_saes(wildcards)} if "saes" in names else {})

    return of_job


def files_of_keys(wildcards):
    """For input: what the keys of texts are read from."""
    concepts = f"{DATA}/{wildcards.experiment}/tables/asked_concepts.parquet"
    compares = EXPERIMENTS[wildcards.experiment].until == "methods"
    return {"prefixes_file": prompts_file(wildcards)} | ({"asked_concepts": concepts} if compares else {})


def steering_prompts(wildcards):
    """For input: the prompts that a language model writes; none where the experiment names no such model."""
    writer = EXPERIMENTS[wildcards.experiment].methods.prompt_writer
    return {"steering_prompts": f"{DATA}/{wildcards.experiment}/steering_prompts/prompts.parquet"} if writer else {}


def prompt_writer(wildcards):
    """For params: what the prompts depend on besides the concepts, in words."""
    return plan.in_words(prompts_fingerprint(EXPERIMENTS[wildcards.experiment].methods.prompt_writer))


def layers_features(wildcards):
    """For input: tables of all scored features, of a job's layers or, where it has none of its own, of all."""
    experiment = EXPERIMENTS[wildcards.experiment]
    layers = plan.layer_groups(experiment)[wildcards.layers] if "layers" in wildcards.keys() else experiment.layers
    return [f"{DATA}/{wildcards.experiment}/features/layer_{layer:02d}.parquet" for layer in layers]


def finished(wildcards):
    """For input: all that the workflow makes of an experiment."""
    return plan.planned_outputs(wildcards.experiment, WORKFLOW, EXPERIMENTS[wildcards.experiment])
