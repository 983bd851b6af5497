# Names of features by the judge.


localrules:
    explanations,


rule explanations:
    """What the judge calls each feature, and how well that tells held-out texts."""
    input:
        further_inputs_of_explanations,
        examples=f"{DATA}/max_activating_examples/{{layers}}.json",
        logit_lens=f"{DATA}/logit_lens/{{layers}}.json",
        model_files=fetched("model"),
    output:
        manifest=f"{DATA}/explanations/{{layers}}.json",
    log:
        "logs/{experiment}/explanations/{layers}.log",
    benchmark:
        "logs/{experiment}/explanations/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: judge_runs_model(experiment) is False),
    conda:
        "../envs/saesteer.yaml"
    params:
        **rows_of("explanations"),
    script:
        "../scripts/step.py"


use rule explanations as explanations_model with:
    input:
        further_inputs_of_explanations,
        examples=f"{DATA}/max_activating_examples/{{layers}}.json",
        logit_lens=f"{DATA}/logit_lens/{{layers}}.json",
        model_files=fetched("model"),
        judge_model_files=fetched("judge_model"),
    log:
        "logs/{experiment}/explanations_model/{layers}.log",
    benchmark:
        "logs/{experiment}/explanations_model/{layers}.tsv"
    wildcard_constraints:
        experiment=only(judge_runs_model),
    threads: share_of_cores
    resources:
        **gpu_job("explanations"),
