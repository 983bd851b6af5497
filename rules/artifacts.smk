# Helpers of the rules, for input: what earlier jobs made of several groups of layers. No rules here.

from saesteer.steps import effects
from saesteer.steps.judge import rates_by_examples
from saesteer.steps.judges import judge_of
from saesteer.steps.step import steps_of


def manifests(step):
    """A step's manifests of all layers; none where the experiment has no such step."""

    def of_experiment(wildcards):
        run = RUNS[wildcards.experiment]
        return [str(path) for path in run.manifests(step)] if step in ("saes", *steps_of(run.experiment)) else []

    return of_experiment


def steered_with(wildcards):
    """What texts are steered with besides features at given factors: a comparison's fits for its concepts, a sweep's pilot factors."""
    experiment = EXPERIMENTS[wildcards.experiment]
    if isinstance(experiment, Comparison):
        return [*fits_of_comparison(wildcards), f"{TABLES}/compared_concepts.parquet".format(**wildcards)]
    return job_manifests("pilot")(wildcards) if experiment.sweep.pilot else []


def fits_of_comparison(wildcards):
    """What a comparison's texts are steered with; nothing in a sweep."""
    return job_manifests("fits")(wildcards) if isinstance(EXPERIMENTS[wildcards.experiment], Comparison) else []


def table_of_strengths(wildcards):
    """The chosen factors in units that compare features and layers; nothing where a sweep has no pilot."""
    return f"{TABLES}/chosen_strengths.parquet".format(**wildcards) if EXPERIMENTS[wildcards.experiment].sweep.pilot else []


def manifest_of_layer(step):
    """A step's manifest of the job that a layer belongs to."""
    return lambda wildcards: str(*RUNS[wildcards.experiment].manifests(step, [int(wildcards.layer)]))


def features_by_layer(wildcards):
    """The tables of all scored features, one file per layer."""
    return [f"{DATA}/features/layer_{layer:02d}.parquet".format(**wildcards) for layer in EXPERIMENTS[wildcards.experiment].layers]


def figure_tables(wildcards):
    """The summary tables that a figure reads."""
    return {table: f"{TABLES}/{table}.parquet".format(**wildcards) for table in FIGURES[wildcards.figure].tables}


def manifests_of_unsteered(wildcards):
    """The texts, and their losses, of a comparison's unsteered method, which are at the first layer only."""
    run = RUNS[wildcards.experiment]
    steps = ("generations", "perplexity") if isinstance(run.experiment, Comparison) else ()
    return [str(path) for step in steps for path in run.manifests(step, [min(run.layers)])]


def concepts_of_texts(wildcards):
    """What texts are rated for: the concepts of the features of a sweep, or those of a comparison."""
    compares = isinstance(EXPERIMENTS[wildcards.experiment], Comparison)
    return f"{TABLES}/compared_concepts.parquet".format(**wildcards) if compares else job_manifests("concepts")(wildcards)


def examples_of_concepts(wildcards):
    """The max-activating examples, where these are what features stand for."""
    return job_manifests("max_activating_examples")(wildcards) if rates_by_examples(EXPERIMENTS[wildcards.experiment]) else []


def judge_runs_model(experiment):
    """Whether the judge is a model on this machine; None where nobody judges."""
    judge = judge_of(experiment)
    return judge and judge.runs_model


def files_of_judge(wildcards):
    """What the judge reads besides texts and their concepts: its models and data files, losses, unsteered texts and examples."""
    judge = judge_of(EXPERIMENTS[wildcards.experiment])
    pins = (*judge.pins, *judge.further_pins)
    models = [*(pin for pin in pins if pin in MODELS), *(["model"] if judge.reads_tokens else [])]
    paths = [*(f"{PINS}/{pin}.json" for pin in pins), *([f"{DATA}/perplexity/{{layers}}.json"] if judge.reads_losses else [])]
    files = [path.format(**wildcards) for path in paths] + [file for name in models for file in fetched(name)(wildcards)]
    files += [file for pin in pins if pin not in MODELS for file in file_of(pin)(wildcards) if Path(file).is_file()]
    return files + (manifests_of_unsteered(wildcards) if judge.beside_unsteered else []) + examples_of_concepts(wildcards)


def further_inputs_of_fits(wildcards):
    """What fits read where the experiment has it: a file of labelled words or texts, ready-made vectors, measured effects, and
    the prompts that a language model writes."""
    experiment = EXPERIMENTS[wildcards.experiment]
    compared = experiment.methods
    files = {
        "lexicon": f"{PINS}/lexicon.json" if compared.concepts.kind == "topics" else None,
        "labelled_texts": f"{PINS}/labelled_texts.json" if compared.concepts.kind == "texts" else None,
        "vectors": f"{PINS}/vectors.json" if compared.vectors else None,
        "effects": f"{DATA}/effects/{{layers}}.json" if effects.step(experiment) else None,
        "steering_prompts": f"{DATA}/steering_prompts/prompts.parquet" if compared.prompt_writer else None,
    }
    return {name: path.format(**wildcards) for name, path in files.items() if path}


def further_inputs_of_explanations(wildcards):
    """What the naming of features reads besides: the judge, where it is no endpoint, and the activations of texts that are local."""
    experiment = EXPERIMENTS[wildcards.experiment]
    judge, local = judge_of(experiment), experiment.local_examples
    pins = [f"{PINS}/{name}.json" for name in (*(judge.pins if judge else ()), *(["texts"] if local else []))]
    return [path.format(**wildcards) for path in pins] + (job_manifests("activations")(wildcards) if local else [])
