# Max-activating examples: the texts in which each feature is most active.


localrules:
    max_activating_examples,
    neuronpedia_examples,


rule activations:
    """Feature activations of local texts, sparse."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        texts=file_of("texts"),
    output:
        manifest=f"{DATA}/activations/{{layers}}.json",
    log:
        "logs/{experiment}/activations/{layers}.log",
    benchmark:
        "logs/{experiment}/activations/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    threads: share_of_cores
    resources:
        **gpu_job("activations"),
    params:
        **rows_of("activations"),
    script:
        "../scripts/step.py"


rule max_activating_examples:
    """The texts with each feature's largest activations."""
    input:
        activations=f"{DATA}/activations/{{layers}}.json",
        texts_pin=f"{PINS}/texts.json",
        texts=file_of("texts"),
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
    output:
        manifest=f"{DATA}/max_activating_examples/{{layers}}.json",
    log:
        "logs/{experiment}/max_activating_examples/{layers}.log",
    benchmark:
        "logs/{experiment}/max_activating_examples/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.local_examples),
    conda:
        "../envs/saesteer.yaml"
    params:
        **rows_of("max_activating_examples"),
    script:
        "../scripts/step.py"


rule neuronpedia_examples:
    """The same from Neuronpedia, with explanations."""
    output:
        manifest=f"{DATA}/max_activating_examples/{{layers}}.json",
    log:
        "logs/{experiment}/neuronpedia_examples/{layers}.log",
    benchmark:
        "logs/{experiment}/neuronpedia_examples/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: not experiment.local_examples),
    conda:
        "../envs/saesteer.yaml"
    threads: 8  # of the submitting host, so that few run at once: each has several requests under way
    params:
        **rows_of("max_activating_examples"),
        sections=setting("max_activating_examples", "saes"),
    script:
        "../scripts/step.py"
