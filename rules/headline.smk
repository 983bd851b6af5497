# The numbers of the headline, and P1's beside them.

from saesteer.site.paper import PAPER_FIGURES


localrules:
    metrics,
    paper,


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
        headline=f"{FIGURES_DIR}/headline.md",
    log:
        "logs/{experiment}/metrics.log",
    benchmark:
        "logs/{experiment}/metrics.tsv"
    conda:
        "../envs/saesteer.yaml"
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
        page=f"{FIGURES_DIR}/paper.md",
    log:
        "logs/{experiment}/paper.log",
    benchmark:
        "logs/{experiment}/paper.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        code=code("paper.py"),
        settings=setting("selection", "best_factor", "model"),
        data=file_digest(PAPER_FIGURES),
    script:
        "../scripts/paper.py"
