# What the papers leave open, where every feature is steered and the truth is known.


rule output_score_settings:
    """The output score of every feature at other prompts and factors."""
    input:
        features=f"{TABLES}/features.parquet",
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        prompts=prompts,
    output:
        output_score_settings=f"{DATA}/output_score_settings/{{layers}}.parquet",
    resources:
        gpu=1,
    params:
        code=study_code("summary.py", "summaries.output_score_settings"),
        settings=setting("output_score", "sweep"),
    script:
        "../scripts/summary.py"


rule open_question_tables:
    """What steering every feature says about choosing one."""
    input:
        features=f"{TABLES}/features.parquet",
        steering=f"{TABLES}/steering.parquet",
        outcomes=f"{TABLES}/outcomes.parquet",
        settings=tables_by_group("output_score_settings"),
    output:
        **{table.name: f"{TABLES}/{table.name}.parquet" for table in SUMMARIES["open_question_tables"].tables},
    params:
        code=study_code("summary.py", "summaries.open_question_tables"),
        settings=setting("selection", "best_factor", "output_score"),
    script:
        "../scripts/summary.py"


rule data_sizes:
    """How many max-activating examples the input score needs."""
    input:
        features=f"{TABLES}/features.parquet",
        examples=manifests("max_activating_examples"),
        logit_lens=manifests("logit_lens"),
        model_files=fetched("model"),
    output:
        data_sizes=f"{TABLES}/data_sizes.parquet",
    params:
        code=study_code("summary.py", "summaries.data_sizes"),
        settings=setting("selection", "input_score"),
    script:
        "../scripts/summary.py"


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
