# What selecting features by output score does, the numbers of the headline, and P1's beside them.

from saesteer.site.paper import PAPER_FIGURES


rule selection:
    """Filtering by output score, against random removal and within layers."""
    input:
        outcomes=f"{TABLES}/outcomes.parquet",
    output:
        selection=f"{TABLES}/selection.parquet",
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
    params:
        **summary("filter_variants"),
        settings=setting("selection", "best_factor"),
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
    params:
        **summary("factor_bins"),
        settings=setting("selection"),
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
    params:
        **summary("examples"),
        settings=setting("sweep", "best_factor", "selection"),
    script:
        "../scripts/summary.py"


rule metrics:
    """The headline numbers, for DVC and for the README."""
    input:
        features=f"{TABLES}/features.parquet",
        best_factors=f"{TABLES}/best_factors.parquet",
        outcomes=f"{TABLES}/outcomes.parquet",
        selection=f"{TABLES}/selection.parquet",
        filter_variants=f"{TABLES}/filter_variants.parquet",
        chosen_strengths=table_of_strengths,
    output:
        metrics=f"{DATA}/metrics.json",
        headline=f"{FIGURES}/headline.md",
    params:
        code=code("metrics.py"),
        settings=setting("selection", "best_factor"),
    script:
        "../scripts/metrics.py"


rule paper:
    """P1's figures beside the experiment's: `snakemake figures/EXPERIMENT/paper.md`, part of no other target."""
    input:
        features=f"{TABLES}/features.parquet",
        outcomes=f"{TABLES}/outcomes.parquet",
        selection=f"{TABLES}/selection.parquet",
    output:
        page=f"{FIGURES}/paper.md",
    params:
        code=code("paper.py"),
        settings=setting("selection", "best_factor", "model"),
        data=file_digest(PAPER_FIGURES),
    script:
        "../scripts/paper.py"
