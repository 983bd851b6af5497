# Whether steering breaks the model, by what it does to ordinary text; and the methods' scores at equal damage.


localrules:
    method_damage,


rule damage:
    """What each fit does to ordinary text, at every factor."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        fits=f"{DATA}/fits/{{layers}}.json",
        compared_concepts=f"{TABLES}/compared_concepts.parquet",
        texts=ordinary_texts,
    output:
        manifest=f"{DATA}/damage/{{layers}}.json",
    log:
        "logs/{experiment}/damage/{layers}.log",
    benchmark:
        "logs/{experiment}/damage/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    threads: share_of_cores
    resources:
        **gpu_job("damage"),
    params:
        **rows_of("damage"),
    script:
        "../scripts/step.py"


rule pilot:
    """The factor at which each feature of a sweep begins to break the model."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        texts=ordinary_texts,
    output:
        manifest=f"{DATA}/pilot/{{layers}}.json",
    log:
        "logs/{experiment}/pilot/{layers}.log",
    benchmark:
        "logs/{experiment}/pilot/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    threads: share_of_cores
    resources:
        **gpu_job("pilot"),
    params:
        **rows_of("pilot"),
    script:
        "../scripts/step.py"


rule method_damage:
    """Each method's score against what it breaks, and its score at equal cost."""
    input:
        topics=topics_of_judge,
        model_files=fetched("model"),
        damage=manifests("damage"),
        generations=manifests("generations"),
        compared_concepts=f"{TABLES}/compared_concepts.parquet",
        method_halves=f"{TABLES}/method_halves.parquet",
        method_choices=f"{TABLES}/method_choices.parquet",
        methods=f"{TABLES}/methods.parquet",
    output:
        method_damage=f"{TABLES}/method_damage.parquet",
        method_equal_cost_scores=f"{TABLES}/method_equal_cost_scores.parquet",
        method_equal_cost=f"{TABLES}/method_equal_cost.parquet",
    log:
        "logs/{experiment}/method_damage.log",
    benchmark:
        "logs/{experiment}/method_damage.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("method_damage"),
        settings=setting("methods"),
    script:
        "../scripts/summary.py"
