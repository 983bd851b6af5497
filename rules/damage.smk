# Whether steering breaks the model, by its loss on ordinary text at the factors that were chosen, and whether it lasts.


rule damage:
    """What each fit at its chosen factors does to ordinary text."""
    input:
        unpack(step_inputs("damage")),
        method_choices=f"{TABLES}/method_choices.parquet",
        texts_file=ordinary_texts_file,
    output:
        manifest=f"{DATA}/{{experiment}}/damage/{{layers}}.json",
    resources:
        **gpu_job("damage"),
    params:
        **wants("damage"),
        code=code("damage.py"),
    script:
        "../scripts/damage.py"


rule method_damage:
    """Each method's score against what it breaks."""
    input:
        unpack(oracle_files),
        damage=manifests("damage"),
        generations=manifests("generations"),
        asked_concepts=f"{TABLES}/asked_concepts.parquet",
        method_choices=f"{TABLES}/method_choices.parquet",
        methods=f"{TABLES}/methods.parquet",
    output:
        table=f"{TABLES}/method_damage.parquet",
    params:
        code=code("method_damage.py"),
        settings=setting("methods"),
    script:
        "../scripts/method_damage.py"


rule persistence:
    """The concept rating of texts at the chosen factors, stretch by stretch."""
    input:
        unpack(oracle_files),
        prefixes_file=prompts_file,
        generations=manifests("generations"),
        asked_concepts=f"{TABLES}/asked_concepts.parquet",
        method_choices=f"{TABLES}/method_choices.parquet",
        methods=f"{TABLES}/methods.parquet",
    output:
        table=f"{TABLES}/persistence.parquet",
    params:
        code=code("persistence.py"),
        settings=setting("methods", "judge"),
    script:
        "../scripts/persistence.py"
