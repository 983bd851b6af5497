# What steering with features that are recommended does on other prompts, and with several at once.


rule recommendations:
    """What `saesteer recommend` would say of each concept, and whether it holds on prompts that took no part."""
    input:
        features=f"{TABLES}/features.parquet",
        prompts=prompts,
        texts_file=file_of("texts"),
        model_files=fetched("model"),
        saes=manifests("saes"),
    output:
        recommendations=f"{TABLES}/recommendations.parquet",
    resources:
        gpu=1,
    params:
        code=study_code("summary.py", "summaries.recommendations"),
        settings=setting("sampling", "judge", "sweep", "selection", "recommendation"),
    script:
        "../scripts/summary.py"


rule feature_sets:
    """Whether several features at once steer better than one, and two concepts at once."""
    input:
        features=f"{TABLES}/features.parquet",
        prompts=prompts,
        model_files=fetched("model"),
        saes=manifests("saes"),
    output:
        **{table.name: f"{TABLES}/{table.name}.parquet" for table in SUMMARIES["feature_sets"].tables},
    resources:
        gpu=1,
    params:
        code=study_code("summary.py", "summaries.feature_sets"),
        settings=setting("sampling", "judge", "sweep"),
    script:
        "../scripts/summary.py"


rule suppression:
    """Ways of steering away from a concept, on prompts that evoke it."""
    input:
        features=f"{TABLES}/features.parquet",
        texts_file=file_of("texts"),
        topics_file=file_of("topics"),
        model_files=fetched("model"),
        saes=manifests("saes"),
    output:
        suppression=f"{TABLES}/suppression.parquet",
    resources:
        gpu=1,
    params:
        code=study_code("summary.py", "summaries.suppression"),
        settings=setting("sampling", "judge", "sweep"),
    script:
        "../scripts/summary.py"


rule side_effects:
    """What steering with a feature does besides, and whether it can be foreseen."""
    input:
        features=f"{TABLES}/features.parquet",
        steering=f"{TABLES}/steering.parquet",
        activations=manifests("activations"),
        generations=manifests("generations"),
        judge=manifests("judge"),
        prompts=prompts,
        topics=topics_of_judge,
        texts_file=file_of("texts"),
        model_files=fetched("model"),
        saes=manifests("saes"),
    output:
        **{table.name: f"{TABLES}/{table.name}.parquet" for table in SUMMARIES["side_effects"].tables},
    resources:
        gpu=1,
    params:
        code=study_code("summary.py", "summaries.side_effects"),
        settings=setting("selection", "judge"),
    script:
        "../scripts/summary.py"
