"""Whether the output score depends on its neutral prompt and on its factor: against the experiment's own setting. It has no seed:
nothing in it is drawn."""

from typing import Any

import polars as pl

from saesteer.settings import OutputScoreSettings, SelectionSettings
from studies.questions.quantity_correlations import correlation
from studies.questions.tables import SETTING_AGREEMENT

FACTORS = ("0.5", "1", "2", "3", "5", "10", "15", "20")
"""In multiples of a_max, at the experiment's own prompt."""
N_PROMPTS = 4
"""Further prompts, the first prefixes of the sweep, at the experiment's factor."""
_FEATURE = ["layer", "feature"]


def score_settings(base: OutputScoreSettings, prefixes: list[str]) -> list[tuple[str, str]]:
    """(prompt, factor) of each setting, the experiment's first."""
    further = [(base.prompt, factor) for factor in FACTORS] + [(prompt, str(base.factor)) for prompt in prefixes[:N_PROMPTS]]
    return list(dict.fromkeys([(base.prompt, str(base.factor)), *further]))


def setting_agreement(scores: pl.DataFrame, base: OutputScoreSettings, settings: SelectionSettings) -> pl.DataFrame:
    """OUTPUT_SCORE_SETTINGS -> SETTING_AGREEMENT."""
    at_base = scores.filter(prompt=base.prompt, factor=str(base.factor)).select(*_FEATURE, base_score="output_score")
    rows = scores.join(at_base, on=_FEATURE).sort("layer", "prompt", "factor", "feature")
    lines = []
    for group in rows.partition_by("layer", "prompt", "factor", maintain_order=True):
        layer, prompt, factor = group.select("layer", "prompt", "factor").row(0)
        label = {"layer": layer, "prompt": prompt, "factor": factor}
        line: dict[str, Any] = label | {"is_own": (prompt, factor) == (base.prompt, str(base.factor))}
        lines.append(line | _agreement(group, settings))
    return pl.DataFrame(lines, schema=SETTING_AGREEMENT.schema).sort(SETTING_AGREEMENT.keys)


def _agreement(group: pl.DataFrame, settings: SelectionSettings) -> dict[str, Any]:
    both = ("output_score", "base_score")
    kept_here, kept_at_base = (set(group.filter(pl.col(name) >= settings.headline_threshold)["feature"]) for name in both)
    first = [set(group.sort(name, descending=True, maintain_order=True).head(len(kept_at_base))["feature"]) for name in both]
    line = correlation(group, *both, settings)
    return {**line, "n_kept": len(kept_here), "jaccard": jaccard(kept_here, kept_at_base), "jaccard_first": jaccard(*first)}


def jaccard(a: set[int], b: set[int]) -> float | None:
    """What both have over what either has; None where neither has any."""
    return len(a & b) / len(a | b) if a | b else None
