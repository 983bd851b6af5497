"""Which figures there are and which summary tables each reads: all that the workflow needs to know before it draws."""

FIGURE_TABLES: dict[str, tuple[str, ...]] = {
    "overview": ("features", "outcomes", "selection", "factor_bins"),
    "roles": ("features",),
    "gen_success_by_threshold": ("selection",),
    "input_vs_output": ("features",),
    "output_score_vs_outcome": ("outcomes",),
    "by_factor": ("factor_bins",),
    "judge_kept_removed": ("selection",),
    "pmi_by_threshold": ("pmi",),
    "examples": ("examples",),
}
"""Figure -> the tables it reads: one, but for the overview."""

PMI_TABLES = ("feature_pmi", "pmi")
"""Tables that need texts whose co-occurrences can be counted."""

METHOD_FIGURE_TABLES: dict[str, tuple[str, ...]] = {
    "methods": ("methods",),
    "method_curves": ("method_curves",),
    "method_differences": ("methods", "method_differences"),
}
"""Figures of the comparison of steering methods -> the tables that each reads."""
