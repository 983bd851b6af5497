# What the papers leave open, where every feature is steered and the truth is known.


rule quantities:
    """Cheap quantities of every feature beside its two scores, and its output score at other prompts and factors."""
    input:
        features=f"{TABLES}/features.parquet",
        activations=f"{DATA}/activations/{{layers}}.json",
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        texts_file=file_of("texts"),
        topics_file=file_of("topics"),
        prompts=prompts,
    output:
        quantities=f"{DATA}/quantities/{{layers}}.parquet",
        output_score_settings=f"{DATA}/output_score_settings/{{layers}}.parquet",
    resources:
        gpu=1,
    params:
        code=study_code("summary.py", "summaries.quantities"),
        settings=setting("output_score", "sweep"),
    script:
        "../scripts/summary.py"


rule open_question_tables:
    """What steering every feature says about choosing one."""
    input:
        features=f"{TABLES}/features.parquet",
        steering=f"{TABLES}/steering.parquet",
        outcomes=f"{TABLES}/outcomes.parquet",
        quantities=tables_by_group("quantities"),
        settings=tables_by_group("output_score_settings"),
        predictor=predictor,
    output:
        **{table.name: f"{TABLES}/{table.name}.parquet" for table in SUMMARIES["open_question_tables"].tables},
    params:
        code=study_code("summary.py", "summaries.open_question_tables"),
        settings=setting("selection", "best_factor", "output_score"),
    script:
        "../scripts/summary.py"


rule data_sizes:
    """How much data quantities need that come from max-activating examples or from labelled texts."""
    input:
        features=f"{TABLES}/features.parquet",
        steering=f"{TABLES}/steering.parquet",
        examples=manifests("max_activating_examples"),
        logit_lens=manifests("logit_lens"),
        activations=manifests("activations"),
        model_files=fetched("model"),
        texts_file=file_of("texts"),
        topics_file=file_of("topics"),
    output:
        data_sizes=f"{TABLES}/data_sizes.parquet",
    params:
        code=study_code("summary.py", "summaries.data_sizes"),
        settings=setting("selection", "input_score"),
    script:
        "../scripts/summary.py"
