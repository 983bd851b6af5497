"""Tables of what the papers leave open: the schemas are rows of tables.csv."""

from pathlib import Path

from saesteer.core.tables import METHOD_STEPS, METHOD_SUMMARIES, STEPS, read_tables

_TABLES = read_tables(Path(__file__).with_name("tables.csv"), STEPS | METHOD_STEPS | METHOD_SUMMARIES)

OUTPUT_SCORE_SETTINGS = _TABLES["output_score_settings"]
CHOICE_RULES = _TABLES["choice_rules"]
FEATURE_RANKINGS = _TABLES["feature_rankings"]
QUANTITY_CORRELATIONS = _TABLES["quantity_correlations"]
HEADLINE_SAMPLES = _TABLES["headline_samples"]
THRESHOLD_TRANSFER = _TABLES["threshold_transfer"]
GRID_ENDS = _TABLES["grid_ends"]
SETTING_AGREEMENT = _TABLES["setting_agreement"]
DATA_SIZES = _TABLES["data_sizes"]
RECOMMENDATIONS = _TABLES["recommendations"]
APPROXIMATOR_SIZES = _TABLES["approximator_sizes"]
EFFECT_MULTIPLES = _TABLES["effect_multiples"]
EFFECT_LAYERS = _TABLES["effect_layers"]
PSEUDO_INVERSES = _TABLES["pseudo_inverses"]
EFFECTS_AT_MULTIPLES = _TABLES["effects_at_multiples"]
EFFECTS_AT_LATER_LAYERS = _TABLES["effects_at_later_layers"]

OPEN_QUESTIONS = (
    CHOICE_RULES, FEATURE_RANKINGS, QUANTITY_CORRELATIONS, HEADLINE_SAMPLES, THRESHOLD_TRANSFER, GRID_ENDS, SETTING_AGREEMENT,
)  # fmt: skip
"""What steering every feature says about choosing one."""
