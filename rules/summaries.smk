# From rows to tables: means over texts, best factors and held-out outcomes.


rule steering_table:
    """Means over the generations of a feature, factor and half of the prefixes."""
    input:
        gen_success=manifests("gen_success"),
        perplexity=manifests("perplexity"),
        judge=manifests("judge"),
        generations=manifests("generations"),
        concepts=manifests("concepts"),
        logit_lens=manifests("logit_lens"),
        topics=topics_of_judge,
        judge_model=files_of_embedder,
        model_files=fetched("model"),
        prompts=prompts,
    output:
        steering=f"{TABLES}/steering.parquet",
    params:
        **summary("steering_table"),
        settings=setting("sweep"),
    script:
        "../scripts/summary.py"


rule chosen_strengths:
    """The chosen factors of a sweep with a pilot in units that compare features and layers."""
    input:
        best_factors=f"{TABLES}/best_factors.parquet",
        pilot=manifests("pilot"),
    output:
        chosen_strengths=f"{TABLES}/chosen_strengths.parquet",
    params:
        **summary("chosen_strengths"),
    script:
        "../scripts/summary.py"


rule outcomes:
    """Best factors by both rules, and what they gave on held-out prefixes."""
    input:
        steering=f"{TABLES}/steering.parquet",
        features=f"{TABLES}/features.parquet",
    output:
        best_factors=f"{TABLES}/best_factors.parquet",
        outcomes=f"{TABLES}/outcomes.parquet",
    params:
        **summary("outcomes"),
        settings=setting("best_factor"),
    script:
        "../scripts/summary.py"
