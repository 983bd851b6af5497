# What selecting features by output score does, in tables.


localrules:
    selection,
    filter_variants,
    pmi,
    examples,


rule selection:
    """Filtering by output score, against random removal and within layers."""
    input:
        outcomes=f"{TABLES}/outcomes.parquet",
    output:
        selection=f"{TABLES}/selection.parquet",
    log:
        "logs/{experiment}/selection.log",
    benchmark:
        "logs/{experiment}/selection.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("selection"),
        settings=setting("selection"),
    script:
        "../scripts/summary.py"


rule filter_variants:
    """What the filter gains in every variant of the analysis, against features of the same layers and of lens tokens as frequent."""
    input:
        steering=f"{TABLES}/steering.parquet",
        features=f"{TABLES}/features.parquet",
        generations=manifests("generations"),
    output:
        filter_variants=f"{TABLES}/filter_variants.parquet",
    log:
        "logs/{experiment}/filter_variants.log",
    benchmark:
        "logs/{experiment}/filter_variants.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("filter_variants"),
        settings=setting("selection", "best_factor"),
    script:
        "../scripts/summary.py"


rule pmi:
    """PMI of generated tokens with top logit-lens tokens, by threshold."""
    input:
        generations=manifests("generations"),
        outcomes=f"{TABLES}/outcomes.parquet",
        features=f"{TABLES}/features.parquet",
        texts=texts_of_pmi,
        model_files=fetched("model"),
    output:
        feature_pmi=f"{TABLES}/feature_pmi.parquet",
        pmi=f"{TABLES}/pmi.parquet",
    log:
        "logs/{experiment}/pmi.log",
    benchmark:
        "logs/{experiment}/pmi.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("pmi"),
        settings=setting("selection", "best_factor", "pmi"),
    script:
        "../scripts/summary.py"


rule examples:
    """Example features, chosen by a fixed rule."""
    input:
        outcomes=f"{TABLES}/outcomes.parquet",
        features=f"{TABLES}/features.parquet",
        examples=manifests("max_activating_examples"),
        generations=manifests("generations"),
        prompts=prompts,
    output:
        examples=f"{TABLES}/examples.parquet",
    log:
        "logs/{experiment}/examples.log",
    benchmark:
        "logs/{experiment}/examples.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("examples"),
        settings=setting("sweep", "best_factor", "selection"),
    script:
        "../scripts/summary.py"
