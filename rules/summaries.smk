# From rows to tables: means over texts, best factors, held-out outcomes, and means by bins of the output score.


localrules:
    steering_table,
    chosen_strengths,
    outcomes,
    factor_bins,


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
    log:
        "logs/{experiment}/steering_table.log",
    benchmark:
        "logs/{experiment}/steering_table.tsv"
    conda:
        "../envs/saesteer.yaml"
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
    log:
        "logs/{experiment}/chosen_strengths.log",
    benchmark:
        "logs/{experiment}/chosen_strengths.tsv"
    conda:
        "../envs/saesteer.yaml"
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
    log:
        "logs/{experiment}/outcomes.log",
    benchmark:
        "logs/{experiment}/outcomes.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("outcomes"),
        settings=setting("best_factor"),
    script:
        "../scripts/summary.py"


rule factor_bins:
    """GenSuccess and perplexity against factor, by output-score bin."""
    input:
        steering=f"{TABLES}/steering.parquet",
        features=f"{TABLES}/features.parquet",
        pilot=manifests("pilot"),
    output:
        factor_bins=f"{TABLES}/factor_bins.parquet",
    log:
        "logs/{experiment}/factor_bins.log",
    benchmark:
        "logs/{experiment}/factor_bins.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("factor_bins"),
        settings=setting("selection"),
    script:
        "../scripts/summary.py"
