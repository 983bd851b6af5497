"""What the papers leave open: each table against loops in plain Python, SciPy, scikit-learn, or a case by hand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from question_tables import synthetic_tables
from scipy import stats
from synthetic_tables import selection_settings

from saesteer.analysis.best_factor import best_factors
from saesteer.cli.application import run_of
from saesteer.core.tables import validate, write_summary
from saesteer.core.tokens import load_tokens
from saesteer.run import Run
from saesteer.settings import BestFactorSettings, NoJudge, OutputScoreSettings, SettingsError, Workflow
from studies import ROOT, open_experiment
from studies.pages.questions import BLOCKS, EXPERIMENT
from studies.pages.results import SNAPSHOTS, write_snapshot
from studies.questions.choice_rules import by_judge
from studies.questions.grid_ends import grids
from studies.questions.headline_samples import MEASURES, N_SAMPLED, headline_samples
from studies.questions.registry import FIGURES, QUESTION_TABLES, further_outputs
from studies.questions.setting_agreement import jaccard, score_settings
from studies.questions.summaries.data_sizes import by_examples, data_sizes
from studies.questions.threshold_transfer import threshold_transfer

SETTINGS = selection_settings()
Tables = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def tables() -> Tables:
    return synthetic_tables(n_layers=2, n_features=60)


def test_every_table_keeps_its_schema_whatever_the_order_of_rows(tables: Tables) -> None:
    for name, table in QUESTION_TABLES.items():
        assert validate(table, tables[name], "made").height
    mixed = {name: tables[name].sample(fraction=1.0, shuffle=True, seed=3) for name in ("features", "outcomes")}
    for name, made in (("headline_samples", headline_samples), ("threshold_transfer", threshold_transfer)):
        assert made(mixed["outcomes"], "capped", SETTINGS).equals(tables[name])


def test_correlations_are_spearmans(tables: Tables) -> None:
    outcomes = tables["outcomes"].filter(rule="capped", layer=1).join(by_judge(tables["steering"]), on=["layer", "feature"], how="left")
    rows = tables["quantity_correlations"].filter(layer=1, quantity="output_score")
    for outcome, column in (("net_gen_success_20", "net_gen_success_20"), ("judge_score", "score")):
        known = outcomes.drop_nulls(column)
        line = rows.row(by_predicate=pl.col("outcome") == outcome, named=True)
        assert line["n"] == known.height
        assert line["rho"] == pytest.approx(stats.spearmanr(known["output_score"], known[column]).statistic)
        assert line["rho_low"] < line["rho"] < line["rho_high"]


def test_headline_of_the_population_and_of_samples(tables: Tables) -> None:
    outcomes = tables["outcomes"].filter(rule="capped")
    for measure in ("gen_success_20", "net_gen_success_20"):
        line = tables["headline_samples"].row(by_predicate=(pl.col("measure") == measure) & (pl.col("layers") == "all"), named=True)
        kept = outcomes.filter(pl.col("output_score") >= SETTINGS.headline_threshold)[measure].mean()
        assert line["ratio"] == pytest.approx(kept / outcomes[measure].mean())
    assert line["sampled_ratio_low"] < line["ratio"] < line["sampled_ratio_high"]
    few = outcomes.filter(pl.col("feature").rank("ordinal").over("layer") <= N_SAMPLED)  # no more than a sample: all samples are alike
    alone = headline_samples(few, "capped", SETTINGS).row(
        by_predicate=(pl.col("measure") == measure) & (pl.col("layers") == "all"), named=True
    )
    assert alone["sampled_ratio"] == pytest.approx(alone["ratio"])
    assert alone["sampled_ratio_low"] == pytest.approx(alone["sampled_ratio_high"])


def gain(rows: pl.DataFrame, measure: str, threshold: float) -> float:
    return rows.filter(pl.col("output_score") >= threshold)[measure].mean() - rows[measure].mean()


def test_a_threshold_is_chosen_on_one_layer_and_tried_on_the_other(tables: Tables) -> None:
    outcomes = tables["outcomes"].filter(rule="capped").drop_nulls("judge_score")
    first, other = (outcomes.filter(layer=layer) for layer in (0, 1))
    line = tables["threshold_transfer"].row(
        by_predicate=(pl.col("measure") == "judge_score") & (pl.col("chosen_on") == "layer 0"), named=True
    )
    allowed = [t for t in (0.0, *SETTINGS.thresholds) if (first["output_score"] >= t).sum() >= 0.05 * first.height]
    best = max(sorted(allowed), key=lambda threshold: round(gain(first, "judge_score", threshold), 9))
    assert line["threshold"] == best
    assert line["gain_chosen"] == pytest.approx(gain(first, "judge_score", best))
    assert line["gain"] == pytest.approx(gain(other, "judge_score", best))


def test_a_threshold_that_says_nothing_gains_where_it_was_chosen_only() -> None:
    """The optimism of a maximum: on noise the chosen threshold looks good on its own half, and is worth nothing on the other."""
    rng = np.random.default_rng(0)
    noise = pl.DataFrame({"layer": [0] * 400, "feature": range(400), "rule": ["capped"] * 400, "output_score": rng.random(400)})
    noise = noise.with_columns(pl.lit(None, pl.Float64).alias(name) for name in MEASURES).with_columns(
        net_gen_success_20=pl.Series(rng.normal(size=400))
    )
    line = threshold_transfer(noise, "capped", SETTINGS).row(0, named=True)
    assert line["gain_chosen"] > line["gain"] + 0.05
    assert line["gain_low"] < 0 < line["gain_high"]
    assert abs(line["gain"]) < 0.1


def test_grid_ends_are_counted(tables: Tables) -> None:
    chosen = best_factors(tables["steering"], BestFactorSettings()).filter(rule="capped", layer=0).drop_nulls(["judge_score", "factor"])
    line = tables["grid_ends"].row(
        by_predicate=(pl.col("layer") == 0) & (pl.col("factor_rule") == "capped") & (pl.col("grid") == "all"), named=True
    )
    assert line["n"] == chosen.height
    assert line["at_smallest"] == (chosen["factor"] == "0.2").mean()
    assert line["at_largest"] == (chosen["factor"] == "20").mean()
    assert (line["moved"], line["change"]) == (0, 0)
    fewer = tables["grid_ends"].filter(layer=0, factor_rule="capped", grid="without the largest")
    assert fewer["moved"].item() >= line["at_largest"]
    assert grids(["1", "2", "3", "4"])["every other"] == ["1", "3"]
    assert set(grids(["1", "2"])) == {"all"}


def test_settings_agree_as_sets_and_ranks(tables: Tables) -> None:
    assert jaccard({1, 2}, {2, 3}) == 1 / 3
    assert jaccard(set(), set()) is None
    own = tables["setting_agreement"].filter(pl.col("is_own"))
    assert own["rho"].to_list() == pytest.approx([1.0, 1.0])
    assert own["jaccard_first"].drop_nulls().to_list() == [1.0] * len(own["jaccard_first"].drop_nulls())
    others = tables["setting_agreement"].filter(~pl.col("is_own"))
    assert (others["rho"] < 1).all()
    settings = score_settings(OutputScoreSettings(), ["a", "b", "c", "d", "e"])
    assert settings[0] == ("From my experience,", "10")
    assert len(settings) == len(set(settings)) == 12


def test_fewer_examples_are_the_first() -> None:
    example = pl.Struct({"rank": pl.UInt16, "text_id": pl.String, "token_index": pl.UInt16, "token": pl.String, "token_id": pl.UInt32})
    held = [{"rank": i, "text_id": "t0", "token_index": 2, "token": "x", "token_id": 7 if i < 10 else 8} for i in range(100)]
    keys = {"layer": pl.UInt16, "feature": pl.UInt32}
    schema = keys | {"n_examples": pl.UInt32, "examples": pl.List(example)}
    examples = pl.DataFrame({"layer": [2], "feature": [1], "n_examples": [100], "examples": [held]}, schema=schema)
    lens = pl.DataFrame({"layer": [2], "feature": [1], "token_ids": [[7]]}, schema=keys | {"token_ids": pl.List(pl.UInt32)})
    made = by_examples(examples, lens, load_tokens(Path("data/world/model")), "ids")
    assert made.select("n", "value").rows() == [(5, 1.0), (10, 1.0), (20, 0.5), (50, 0.2), (100, 0.1)]


def test_picks_from_fewer_examples_are_compared_with_those_from_most() -> None:
    """By hand: of two concepts with two features each, one pick is another from 5 examples."""
    keys = {"layer": pl.UInt16, "feature": pl.UInt32}
    features = pl.DataFrame(
        {"layer": [2] * 5, "feature": [1, 2, 3, 4, 5], "concept": ["sea", "sea", "war", "war", None]}, schema_overrides=keys
    )
    by_size = {5: (0.1, 0.2, 0.9, 0.3, 0.5), 100: (0.4, 0.2, 0.9, 0.3, 0.5)}
    values = pl.concat(features.select(*keys, n=pl.lit(n, pl.UInt32), value=pl.Series(of)) for n, of in by_size.items())
    few, most = data_sizes(values, features, SETTINGS).rows(named=True)
    assert (few["n"], few["n_features"], few["n_concepts"], few["same_pick"]) == (5, 5, 2, 0.5)
    assert few["rho"] == pytest.approx(stats.spearmanr(*by_size.values()).statistic)
    assert (most["rho"], most["same_pick"]) == (1, 1)


def test_only_an_experiment_with_every_feature_judged_answers_them() -> None:
    brute, shipped = (open_experiment(name) for name in ("tiny-brute", "tiny"))
    figures = [name for name, figure in FIGURES.items() if {*figure.tables} <= {*QUESTION_TABLES}]
    assert figures == ["choice_rules"]
    wanted = {*(f"tables/{name}.parquet" for name in QUESTION_TABLES), *(f"{name}.pdf" for name in figures)}
    wanted |= {f"output_score_settings/layers_{layer}-{layer}.parquet" for layer in ("03", "06")}
    silent = brute.model_copy(update={"judge": NoJudge(kind="none")})
    for experiment, asked in ((brute, True), (shipped, False), (silent, False)):
        run = Run(Workflow(experiments=("any",)), "any", experiment)
        planned = {path.partition("/any/")[2] for path in further_outputs(run)}
        assert wanted <= planned if asked else not wanted & planned


def test_an_experiment_of_the_studies_is_opened_by_their_configuration() -> None:
    assert run_of("tiny-seed-1", ROOT / "studies/config.yaml").experiment.seed_of_world == 1
    with pytest.raises(SettingsError, match=r"there is no file config/experiments/tiny-seed-1\.yaml\. Did you mean"):
        run_of("tiny-seed-1", ROOT / "config/config.yaml")


def test_the_page_shows_what_is_kept(tables: Tables, tmp_path: Path) -> None:
    of_study = [snapshot for snapshot in SNAPSHOTS if snapshot.experiment == EXPERIMENT]
    for snapshot in of_study:
        (name,) = snapshot.tables
        write_snapshot(tmp_path, snapshot)
        assert not (tmp_path / snapshot.folder / f"{name}.csv").exists()  # it is not computed yet
        write_summary(snapshot.tables[name], tables[name], tmp_path / f"data/{EXPERIMENT}/tables/{name}.parquet")
        write_snapshot(tmp_path, snapshot)
    made = {name: shown.markdown(tmp_path) for name, shown in BLOCKS.items()}
    assert not any("None" in text or "nan" in text for text in made.values())
    (_, _, recommended) = made["open-recommendations"].splitlines()
    assert "| 2 of 4 (1 lie above, 1 below) | " in recommended
    assert recommended.count(" 0.25 [") == 1  # brute force's score less the recommendation's
    _, _, used, tried, left = made["open-verdicts"].splitlines()
    assert used.startswith("| use | 1 of 2 | 0.50 [0.01, 0.99] | 2 | 1 of 2 |")  # Clopper and Pearson's
    assert "| try it | 1 of 1 | 1.00 | 1 | 1 of 2 |" in tried
    assert "| don't | 0 of 1 | 0.00 | 1 | 0 of 2 |" in left
    line = tables["choice_rules"].row(
        by_predicate=(pl.col("factor_rule") == "judge") & (pl.col("layer") == 1) & (pl.col("rule") == "best"), named=True
    )
    (shown,) = [row for row in made["open-choices"].splitlines() if row.startswith("| brute force on the other half |")]
    assert f"{line['score']:.2f} [{line['score_low']:.2f}, {line['score_high']:.2f}]" in shown
