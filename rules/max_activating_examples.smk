# Max-activating examples: the texts in which each feature is most active, and the concept that they share.


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
    wildcard_constraints:
        experiment=only(lambda experiment: isinstance(experiment.max_activating_examples, LocalExamples)),
    params:
        **rows_of("max_activating_examples"),
    script:
        "../scripts/step.py"


rule neuronpedia_examples:
    """The same from Neuronpedia, with explanations."""
    output:
        manifest=f"{DATA}/max_activating_examples/{{layers}}.json",
    wildcard_constraints:
        experiment=only(lambda experiment: not isinstance(experiment.max_activating_examples, LocalExamples)),
    threads: 8  # of the submitting host, so that few run at once: each has several requests under way
    params:
        **rows_of("max_activating_examples"),
        sections=setting("max_activating_examples", "saes"),
    script:
        "../scripts/step.py"


rule concepts:
    """The topic with the highest lift in each feature's max-activating examples."""
    input:
        examples=f"{DATA}/max_activating_examples/{{layers}}.json",
        texts_pin=f"{PINS}/texts.json",
        texts=file_of("texts"),
        topics_pin=f"{PINS}/topics.json",
        topics=file_of("topics"),
    output:
        manifest=f"{DATA}/concepts/{{layers}}.json",
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.concepts.kind == "topics"),
    params:
        **rows_of("concepts"),
    script:
        "../scripts/step.py"


rule concepts_without_topics:
    """What Neuronpedia says that each feature means, one concept for all features, or none."""
    input:
        examples=f"{DATA}/max_activating_examples/{{layers}}.json",
    output:
        manifest=f"{DATA}/concepts/{{layers}}.json",
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.concepts.kind not in ("topics", "nearest")),
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
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.concepts.kind == "nearest"),
    resources:
        **gpu_job("concepts"),
    params:
        **rows_of("concepts"),
    script:
        "../scripts/step.py"
