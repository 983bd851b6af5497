# The study's tables in pictures.


rule study_figure:
    """PDF and PNG of a figure of the study, and the CSV that they draw; the same bytes whenever they are made again."""
    input:
        unpack(study_tables),
    output:
        pdf=f"{FIGURES}/{{figure}}.pdf",
        png=f"{FIGURES}/{{figure}}.png",
        csv=f"{FIGURES}/{{figure}}.csv",
    wildcard_constraints:
        figure="|".join(STUDY_FIGURES),
    params:
        code=study_code("figure.py", "figures.{figure}"),
        settings=setting("selection", "best_factor"),
    script:
        "../scripts/figure.py"
