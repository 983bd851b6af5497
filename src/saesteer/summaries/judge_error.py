"""Mean scores corrected for how often the judge is measured to err."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import FEATURES, JUDGE_ERROR, JUDGEMENTS, QUANTITIES, STEERING, of_features
from saesteer.run import Run
from saesteer.settings import OracleJudge
from saesteer.summaries.summary import Summary, steers_every_feature


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.choice_rules import with_quantities
    from saesteer.analysis.halves import split_halves
    from saesteer.analysis.judge_error import judge_error, read_counts

    features, steering, judge = run.summary(FEATURES), run.summary(STEERING), run.sweep.judge
    texts = of_features(run.rows(JUDGEMENTS, run.layers))
    texts = texts.with_columns(half=pl.col("prefix_id").replace_strict(split_halves(run.prompts()), return_dtype=pl.Int64))
    measured = judge.oracle / "text_judge.json" if isinstance(judge, OracleJudge) else None
    counts = read_counts(measured) if measured is not None and measured.exists() else None
    quantities = with_quantities(features, run.summary_by_group(QUANTITIES))
    return {JUDGE_ERROR.name: judge_error(quantities, steering, texts, counts, run.sweep.selection)}


SUMMARY = Summary((JUDGE_ERROR,), steers_every_feature, compute)
