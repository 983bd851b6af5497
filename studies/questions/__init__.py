"""What the papers leave open, asked of models that are small enough to steer every feature: formulas here, tables in `summaries`, figures
in `figures`. `snakemake -s studies/Snakefile` makes them."""
