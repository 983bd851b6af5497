# What selecting features by output score does, and the numbers of the headline.


rule selection:
    """Filtering by output score, against random removal and within layers."""
    input:
        outcomes=f"{TABLES}/outcomes.parquet",
    output:
        table=f"{TABLES}/selection.parquet",
    params:
        code=code("selection.py"),
        settings=setting("selection"),
    script:
        "../scripts/selection.py"


rule factor_bins:
    """GenSuccess and perplexity against factor, by output-score bin."""
    input:
        steering=f"{TABLES}/steering.parquet",
        features=f"{TABLES}/features.parquet",
    output:
        table=f"{TABLES}/factor_bins.parquet",
    params:
        code=code("factor_bins.py"),
        settings=setting("selection", "figures"),
    script:
        "../scripts/factor_bins.py"


rule pmi:
    """PMI of generated tokens with lens tokens, by threshold."""
    input:
        generations=manifests("generations"),
        outcomes=f"{TABLES}/outcomes.parquet",
        features=f"{TABLES}/features.parquet",
        texts_file=pmi_file,
        model_files=fetched("model"),
    output:
        feature_pmi=f"{TABLES}/feature_pmi.parquet",
        pmi=f"{TABLES}/pmi.parquet",
    params:
        code=code("pmi.py"),
        settings=setting("selection", "best_factor", "pmi"),
    script:
        "../scripts/pmi.py"


rule examples:
    """Example features, chosen by a fixed rule."""
    input:
        outcomes=f"{TABLES}/outcomes.parquet",
        features=f"{TABLES}/features.parquet",
        records=manifests("records"),
        generations=manifests("generations"),
        prefixes_file=prompts_file,
    output:
        table=f"{TABLES}/examples.parquet",
    params:
        code=code("examples.py"),
        settings=setting("sweep", "best_factor", "figures", "selection"),
    script:
        "../scripts/examples.py"


rule metrics:
    """The headline numbers, for DVC and for the README."""
    input:
        features=f"{TABLES}/features.parquet",
        best_factors=f"{TABLES}/best_factors.parquet",
        outcomes=f"{TABLES}/outcomes.parquet",
        selection=f"{TABLES}/selection.parquet",
        steering=f"{TABLES}/steering.parquet",
    output:
        metrics=f"{DATA}/{{experiment}}/metrics.json",
        headline=f"{FIGURES}/{{experiment}}/headline.md",
    params:
        code=code("metrics.py"),
        settings=setting("selection", "best_factor"),
    script:
        "../scripts/metrics.py"
