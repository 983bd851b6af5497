"""What the papers leave open: each table against loops in plain Python, SciPy, scikit-learn, or a case by hand."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from question_tables import synthetic_quantities, synthetic_tables
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score, mutual_info_score
from synthetic_tables import selection_settings, synthetic_features

from saesteer.analysis.best_factor import best_factors
from saesteer.cli.application import run_of
from saesteer.core.tables import validate, write_summary
from saesteer.core.tokens import load_tokens
from saesteer.core.uncertainty import random_stream
from saesteer.run import Run
from saesteer.settings import BestFactorSettings, NoJudge, OutputScoreSettings, SettingsError, Workflow
from studies import ROOT, open_experiment
from studies.pages.example_agreement import example_agreement
from studies.pages.questions import BLOCKS, FOLDER, LABEL_FOLDER
from studies.pages.results import Snapshot, write_snapshot
from studies.questions.choice_rules import by_judge, with_quantities
from studies.questions.experiments import LEARNT, predictor_of
from studies.questions.grid_ends import grids
from studies.questions.headline_samples import MEASURES, N_SAMPLED, headline_samples
from studies.questions.labelled_texts import chosen_texts, concept_tokens, detection, lens_on_concept, texts_by_topic, token_shares
from studies.questions.predictor import PENALTIES, QUANTITIES, chosen_penalty, normal_scores, predictions, predictions_from, ridge
from studies.questions.registry import FIGURES, LABEL_TABLES, QUESTION_TABLES, further_outputs
from studies.questions.setting_agreement import jaccard, score_settings
from studies.questions.summaries.data_sizes import by_examples, token_concepts
from studies.questions.tables import PREDICTOR_WEIGHTS
from studies.questions.threshold_transfer import threshold_curves, threshold_transfer

SETTINGS = selection_settings()
TOPICS = ["sea", "chess"]
Tables = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def tables() -> Tables:
    return synthetic_tables(n_layers=2, n_features=60)


def test_every_table_keeps_its_schema_whatever_the_order_of_rows(tables: Tables) -> None:
    for name, table in (QUESTION_TABLES | LABEL_TABLES).items():
        assert validate(table, tables[name], "made").height
    mixed = {name: tables[name].sample(fraction=1.0, shuffle=True, seed=3) for name in ("features", "outcomes")}
    for name, made in (
        ("headline_samples", headline_samples),
        ("threshold_curves", threshold_curves),
        ("threshold_transfer", threshold_transfer),
    ):
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
    curve = tables["threshold_curves"].filter(measure="judge_score", layer=1)
    assert dict(curve.select("threshold", "gain").iter_rows())[0.1] == pytest.approx(gain(other, "judge_score", 0.1))
    assert curve.filter(threshold=0.0).select("gain", "gain_low", "gain_high").row(0) == pytest.approx((0, 0, 0))


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


def labelled() -> pl.DataFrame:
    """Six texts: token 0 is neutral, 1 to 30 are the sea's, 31 to 60 chess's, but 1 is said in both."""
    rows = [(f"t{place}", [0, *ids], [255, *[int(one > 30) if one != 1 or place < 3 else 1 for one in ids]]) for place, ids in enumerate(
        ([1, *range(2, 12)], [1, *range(12, 22)], [1, *range(22, 31)], [1, *range(31, 41)], [*range(41, 51)], [*range(51, 61)])
    )]  # fmt: skip
    return pl.DataFrame(
        rows, schema={"text_id": pl.String, "token_ids": pl.List(pl.UInt16), "token_topics": pl.List(pl.UInt8)}, orient="row"
    )


def test_what_labelled_texts_say() -> None:
    texts = labelled()
    topics = texts_by_topic(texts, TOPICS)
    assert topics.select("text_id", "concept", "n_context").rows() == [(f"t{i}", TOPICS[i >= 3], 1) for i in range(6)]
    shares = token_shares(texts, TOPICS)
    assert shares.filter(token_id=1).sort("concept").select("concept", "n", "share").rows() == [("chess", 1, 0.25), ("sea", 3, 0.75)]
    tokens = concept_tokens(shares)
    assert tokens["sea"][0] == 1  # said most
    assert all(31 <= one <= 60 for one in tokens["chess"])
    lens = pl.DataFrame(
        {"layer": [2, 2], "feature": [5, 6], "concept": ["chess", None], "top_logit_lens_token_ids": [[1, 31, 0, 2], [1, 1, 1, 1]]}
    )
    made = lens_on_concept(lens.cast({"layer": pl.UInt16, "feature": pl.UInt32, "top_logit_lens_token_ids": pl.List(pl.UInt32)}), shares)
    assert made.rows() == [(2, 5, (0.25 + 1) / 4)]
    positive, negative = chosen_texts(topics, "sea", 2)
    assert set(positive["concept"]) == {"sea"}
    assert set(negative["concept"]) == {"chess"}
    assert chosen_texts(topics, "sea", 3)[0]["text_id"].to_list()[:2] == positive["text_id"].to_list()


def test_detection_is_scikit_learns() -> None:
    topics = texts_by_topic(labelled(), TOPICS)
    fires = {1: ["t0", "t1", "t5"], 2: ["t3", "t4", "t5"], 3: []}
    rows = [(2, f"t{i}", 9, [1] * 3, [f for f, ids in fires.items() if f"t{i}" in ids], [1.0] * 3) for i in range(6)]
    rows = [(layer, text, n, at[: len(own)], own, values[: len(own)]) for layer, text, n, at, own, values in rows]
    schema = {
        "layer": pl.UInt16,
        "text_id": pl.String,
        "n_tokens": pl.UInt16,
        "token_index": pl.List(pl.UInt16),
        "feature": pl.List(pl.UInt32),
        "value": pl.List(pl.Float32),
    }
    features = pl.DataFrame({"layer": [2, 2, 2], "feature": [1, 2, 3], "concept": ["sea", "sea", "sea"]}).cast(
        {"layer": pl.UInt16, "feature": pl.UInt32}
    )
    made = detection(pl.DataFrame(rows, schema=schema, orient="row"), topics, features, 3)
    label = [1, 1, 1, 0, 0, 0]
    for feature, f1, nats in made.select("feature", "label_f1", "information").iter_rows():
        fired = [int(f"t{i}" in fires[feature]) for i in range(6)]
        assert f1 == pytest.approx(f1_score(label, fired))
        assert abs(nats) == pytest.approx(mutual_info_score(label, fired))
    assert made["information"].to_list()[1] == pytest.approx(-math.log(2))  # it tells the label, and is never there


def test_fewer_examples_are_the_first(tables: Tables) -> None:
    example = pl.Struct({"rank": pl.UInt16, "text_id": pl.String, "token_index": pl.UInt16, "token": pl.String, "token_id": pl.UInt32})
    held = [
        {"rank": i, "text_id": "t0" if i < 5 else "t3", "token_index": 2, "token": "x", "token_id": 7 if i < 10 else 8} for i in range(100)
    ]
    keys = {"layer": pl.UInt16, "feature": pl.UInt32}
    schema = keys | {"n_examples": pl.UInt32, "examples": pl.List(example)}
    examples = pl.DataFrame({"layer": [2], "feature": [1], "n_examples": [100], "examples": [held]}, schema=schema)
    lens = pl.DataFrame({"layer": [2], "feature": [1], "token_ids": [[7]]}, schema=keys | {"token_ids": pl.List(pl.UInt32)})
    features = pl.DataFrame({"layer": [2], "feature": [1], "concept": ["sea"]}, schema=keys | {"concept": pl.String})
    made = by_examples(examples, lens, token_concepts(labelled(), TOPICS), features, load_tokens(Path("data/world/model")), "ids")
    shown = {(rule, n): value for rule, n, value in made.select("rule", "n", "value").iter_rows()}
    assert [shown["input_score", n] for n in (5, 10, 20, 50, 100)] == [1.0, 1.0, 0.5, 0.2, 0.1]
    assert [shown["concept_share", n] for n in (5, 10, 20, 50, 100)] == pytest.approx([1.0, 0.5, 0.25, 0.1, 0.05])


def test_the_predictor_is_scikit_learns_ridge() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(80, 5))
    y = x @ [1.0, 0, 0, -0.5, 0] + rng.normal(size=80)
    theirs = Ridge(alpha=3.0, fit_intercept=False).fit(x, y)
    np.testing.assert_allclose(ridge(x, y, 3.0), theirs.coef_, rtol=1e-9)
    assert chosen_penalty(x, rng.normal(size=80), random_stream(0)) > chosen_penalty(x, x @ np.ones(5), random_stream(0)) == PENALTIES[0]


def test_what_one_layer_teaches_holds_on_another() -> None:
    """Judge scores that one quantity makes are predicted on the layer that was not looked at; the weight is its."""
    features = synthetic_features(n_layers=2, n_features=200)
    known = with_quantities(features, synthetic_quantities(features)).filter(pl.col("concept").is_not_null())
    strength = known.select("layer", "feature", "gradient")
    rows = [
        strength.with_columns(factor=pl.lit(f), half=pl.lit(h, pl.UInt8), judge_score=pl.col("gradient") * float(f))
        for f in ("0", "1")
        for h in (0, 1)
    ]
    made, weights = predictions(known, pl.concat(rows), SETTINGS)
    assert (made["rho"] > 0.95).all()
    assert weights.sort("weight", descending=True).head(2)["quantity"].to_list() == ["gradient", "gradient"]
    assert made["trained_on"].to_list() == ["layer 1", "layer 0"]
    assert predictions(known.filter(layer=0), pl.concat(rows), SETTINGS)[0].is_empty()
    scores = normal_scores(known.filter(layer=0).with_columns(density=pl.lit(None, pl.Float64)))
    assert (scores[:, QUANTITIES.index("density")] == 0).all()
    signs = {"gradient": (3.0, -1.0), "density": (1.0, -1.0)}  # by layer: their means are 1 and 0
    given = [(layer, name, signs.get(name, (0.0, 0.0))[layer]) for layer in (0, 1) for name in QUANTITIES]
    elsewhere = pl.DataFrame(given, schema=PREDICTOR_WEIGHTS.schema, orient="row")
    tried = predictions_from(elsewhere, "there", known, pl.concat(rows), SETTINGS)
    assert tried.select("layer", "trained_on", "penalty").rows() == [(0, "there", None), (1, "there", None)]
    assert tried["rho"].to_list() == pytest.approx([1, 1])


def test_only_an_experiment_with_every_feature_judged_answers_them() -> None:
    brute, shipped = (open_experiment(name) for name in ("tiny-brute", "tiny"))
    figures = [name for name, figure in FIGURES.items() if {*figure.tables} <= {*QUESTION_TABLES}]
    assert len(figures) == 8
    wanted = {*(f"tables/{name}.parquet" for name in QUESTION_TABLES), *(f"{name}.pdf" for name in figures)}
    wanted |= {"quantities/layers_03-03.parquet", "output_score_settings/layers_06-06.parquet"}
    silent = brute.model_copy(update={"judge": NoJudge(kind="none")})
    for experiment, asked in ((brute, True), (shipped, False), (silent, False)):
        run = Run(Workflow(experiments=("any",)), "any", experiment)
        planned = {path.partition("/any/")[2] for path in further_outputs(run)}
        assert wanted <= planned if asked else not wanted & planned


def test_an_experiment_of_the_studies_is_opened_by_their_configuration() -> None:
    run = run_of("tiny-brute-seed-1", ROOT / "studies/config.yaml")
    assert (run.experiment.seed_of_world, run.sweep.sweep.n_prefixes, predictor_of(run.experiment)) == (1, 10, LEARNT)
    with pytest.raises(SettingsError, match=r"there is no file config/experiments/tiny-brute-seed-1\.yaml\. Did you mean"):
        run_of("tiny-brute-seed-1", ROOT / "config/config.yaml")


def test_examples_of_two_corpora_agree_as_far_as_their_scores(tables: Tables) -> None:
    features = tables["features"]
    other = features.with_columns(input_score=1 - pl.col("input_score"))
    for line in example_agreement(features, other, SETTINGS).iter_rows(named=True):
        assert (line["rho_input_score"], line["rho_density"]) == (pytest.approx(-1), pytest.approx(1))
        assert line["n"] == features.filter(layer=line["layer"]).height


SEEDS = ("one", "one-seed-1")


def test_the_page_shows_what_is_kept(tables: Tables, tmp_path: Path) -> None:
    for experiment in SEEDS:
        folder = tmp_path / f"data/{experiment}/tables"
        for kept, of_study in ((FOLDER, QUESTION_TABLES), (LABEL_FOLDER, LABEL_TABLES)):
            for name, table in of_study.items():
                assert not (tmp_path / kept / experiment).exists()  # all tables or none
                write_summary(table, tables[name], folder / f"{name}.parquet")
                write_snapshot(tmp_path, Snapshot(experiment, of_study, f"{kept}/{experiment}"))
    made = {name: shown.markdown(tmp_path) for name, shown in BLOCKS.items()}
    apart = [name for name, shown in BLOCKS.items() if shown.apart]
    pooled = "open-feature-set-gains"
    over_seeds = [name for name in BLOCKS if name not in {*apart, pooled}]
    assert not any("None" in text or "nan" in text for text in made.values())
    assert all(made[name].startswith("`one`:\n\n| ") and "one-seed-1" not in made[name] for name in apart)
    rows = {(name, one): [row for row in made[name].splitlines() if row.startswith(f"| `{one}` ")] for name in over_seeds for one in SEEDS}
    for name in over_seeds:  # the same results twice
        assert len(rows[name, "one"]) == len(rows[name, "one-seed-1"]) > 0
    assert "| `one` " in made[pooled]
    assert "one-seed-1" not in made[pooled]
    (recommended,) = rows["open-recommendations", "one"]
    assert "| 2 of 4 (1 lie above, 1 below) | " in recommended
    assert recommended.count(" 0.25 [") == 1  # brute force's score less the recommendation's
    used, tried, left = rows["open-verdicts", "one"]
    assert used.startswith("| `one` | use | 1 of 2 | 0.50 [0.01, 0.99] | 2 | 1 of 2 |")  # Clopper and Pearson's
    assert "| try it | 1 of 1 | 1.00 | 1 | 1 of 2 |" in tried
    assert "| don't | 0 of 1 | 0.00 | 1 | 0 of 2 |" in left
    line = tables["choice_rules"].row(
        by_predicate=(pl.col("factor_rule") == "judge") & (pl.col("layer") == 1) & (pl.col("rule") == "best"), named=True
    )
    (shown,) = [row for row in made["open-choices"].splitlines() if row.startswith("| brute force on the other half |")]
    assert f"{line['score']:.2f} [{line['score_low']:.2f}, {line['score_high']:.2f}]" in shown
