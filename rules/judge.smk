# Ratings of the generated texts: concept, instruction (where there is one) and fluency, each 0, 1 or 2, and their harmonic mean.


localrules:
    judge,


rule judge:
    """By the judge of a shipped world, which knows its topics, or by a language model behind an OpenAI-compatible address."""
    input:
        files_of_judge,
        concepts=concepts_of_texts,
        generations=f"{DATA}/generations/{{layers}}.json",
        prompts=prompts,
    output:
        manifest=f"{DATA}/judge/{{layers}}.json",
    log:
        "logs/{experiment}/judge/{layers}.log",
    benchmark:
        "logs/{experiment}/judge/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: judge_runs_model(experiment) is False),
    conda:
        "../envs/saesteer.yaml"
    params:
        **rows_of("judge"),
    script:
        "../scripts/step.py"


use rule judge as judge_model with:
    # By a model on this machine: sentence embeddings beside unsteered texts, or a language model.
    log:
        "logs/{experiment}/judge_model/{layers}.log",
    benchmark:
        "logs/{experiment}/judge_model/{layers}.tsv"
    wildcard_constraints:
        experiment=only(judge_runs_model),
    threads: share_of_cores
    resources:
        **gpu_job("judge"),
