# Helpers of the rules of the comparison of steering methods: which files a job reads, for input. No rules here.

from saesteer.workflow import plan
from saesteer.sources.published import kept_at


def concept_sources(wildcards):
    """For input: the grammar's words, or the published list of concepts and its training texts."""
    asked = EXPERIMENTS[wildcards.experiment].methods
    if isinstance(asked.concepts, TopicTexts):
        return [str(path) for path in (asked.concepts.lexicon, asked.concepts.openers) if path.exists()]
    return [ancient(str(kept_at(key, Path(DOWNLOADS)))) for key in (asked.concepts.concepts, asked.concepts.texts)]


def method_prompts(wildcards):
    """For input: the file of prompts, one's own or a published one."""
    experiment = EXPERIMENTS[wildcards.experiment]
    path = str(asked_prompts(experiment))
    return path if experiment.methods.prompts else ancient(path)


def asked_prompts(experiment):
    """Where a comparison's prompts are, or will be once they are fetched."""
    return experiment.methods.prompts or kept_at(experiment.methods.published_prompts, Path(DOWNLOADS))


def step_inputs(step, leave_out=()):
    """For input: the file behind each name that a step depends on: pins and manifests."""

    def of_job(wildcards):
        experiment = EXPERIMENTS[wildcards.experiment]
        names = [name for name in plan.plans(experiment)[step].inputs if name not in leave_out]
        made = {"saes", *plan.plans(experiment)}
        folder = f"{DATA}/{wildcards.experiment}"
        return {name: f"{folder}/{name}/{wildcards.layers}.json" if name in made else f"{folder}/pins/{name}.json" for name in names}

    return of_job


def layers_features(wildcards):
    """For input: a job's tables of all scored features."""
    layers = plan.layer_groups(EXPERIMENTS[wildcards.experiment])[wildcards.layers]
    return [f"{DATA}/{wildcards.experiment}/features/layer_{layer:02d}.parquet" for layer in layers]


def steered_judge_inputs(wildcards):
    """For input: what the judge that an experiment names depends on and reads."""
    files = step_inputs("steered_judge", leave_out=("steered",))(wildcards)
    kind = EXPERIMENTS[wildcards.experiment].judge.kind
    if kind == "oracle":
        files |= {"topics_file": file_of("topics")(wildcards), "model_files": fetched("model")(wildcards)}
    return files | ({"judge_model_files": fetched("judge_model")(wildcards)} if kind == "model" else {})


def success_inputs(wildcards):
    """For input: what counting lens tokens in steered texts reads, where that chooses factors."""
    chosen_by = EXPERIMENTS[wildcards.experiment].methods.factor_rule
    if chosen_by == "score":
        return {}
    lens, model = manifests("logit_lens")(wildcards), f"{DATA}/{wildcards.experiment}/pins/model.json"
    return {"logit_lens": lens, "model": model, "model_files": fetched("model")(wildcards)}
