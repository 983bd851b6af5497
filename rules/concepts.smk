# What a feature stands for: the concept that its max-activating examples share.


localrules:
    concepts,


rule concepts:
    """The topic with the highest lift in each feature's max-activating examples; or what Neuronpedia says that the feature means, the
    examples' word, one concept for all features, or none."""
    input:
        examples=f"{DATA}/max_activating_examples/{{layers}}.json",
        topics=labelled_topics,
    output:
        manifest=f"{DATA}/concepts/{{layers}}.json",
    log:
        "logs/{experiment}/concepts/{layers}.log",
    benchmark:
        "logs/{experiment}/concepts/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.concepts.kind != "nearest"),
    conda:
        "../envs/saesteer.yaml"
    params:
        **rows_of("concepts"),
    script:
        "../scripts/step.py"


rule concepts_nearest:
    """The name nearest to each feature's max-activating examples."""
    input:
        examples=f"{DATA}/max_activating_examples/{{layers}}.json",
        model_files=fetched("model"),
        judge_model_files=fetched("judge_model"),
    output:
        manifest=f"{DATA}/concepts/{{layers}}.json",
    log:
        "logs/{experiment}/concepts_nearest/{layers}.log",
    benchmark:
        "logs/{experiment}/concepts_nearest/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.concepts.kind == "nearest"),
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("concepts"),
    params:
        **rows_of("concepts"),
    script:
        "../scripts/step.py"
