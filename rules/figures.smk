# Figures: each a view of one table (the overview: of several), saved with the data that it draws.


rule figure:
    """PDF and PNG of a figure, and the CSV that they draw; the same bytes whenever they are made again."""
    input:
        unpack(figure_tables),
    output:
        pdf=f"{FIGURES}/{{experiment}}/{{figure}}.pdf",
        png=report(
            f"{FIGURES}/{{experiment}}/{{figure}}.png",
            category="{experiment}",
            caption="caption.rst",
            labels={"figure": "{figure}"},
        ),
        csv=f"{FIGURES}/{{experiment}}/{{figure}}.csv",
    params:
        code=figure_code,
        caption=figure_caption,
        settings=setting("selection", "best_factor"),
    script:
        "../scripts/figure.py"
