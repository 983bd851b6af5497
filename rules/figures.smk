# Figures: each a view of tables, saved with the data that it draws.


localrules:
    figure,
    report,


rule figure:
    """PDF and PNG of a figure, and the CSV that they draw; the same bytes whenever they are made again."""
    input:
        unpack(figure_tables),
    output:
        pdf=f"{FIGURES_DIR}/{{figure}}.pdf",
        png=f"{FIGURES_DIR}/{{figure}}.png",
        csv=f"{FIGURES_DIR}/{{figure}}.csv",
    log:
        "logs/{experiment}/figure/{figure}.log",
    benchmark:
        "logs/{experiment}/figure/{figure}.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        code=lambda wildcards: code_digest(f"figures.{wildcards.figure}", "figures.save", scripts=(SCRIPTS / "figure.py",)),
        settings=setting("selection", "best_factor"),
    script:
        "../scripts/figure.py"


rule report:
    """The report to walk through, of all that the experiment has: `snakemake figures/EXPERIMENT/report`, part of no other target."""
    input:
        lambda wildcards: planned_outputs(RUNS[wildcards.experiment]),
    output:
        folder=directory(f"{FIGURES_DIR}/report"),
    log:
        "logs/{experiment}/report.log",
    benchmark:
        "logs/{experiment}/report.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        code=code("report.py"),
        assets=file_digest(REPORT_ASSETS),
    script:
        "../scripts/report.py"
