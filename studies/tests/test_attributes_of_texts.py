"""Attributes of a text other than its topic: the words that show them, by hand; pairs of a topic; what is picked and compared, by hand; and
that no prompt both chooses and reports."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from engine_models import shipped_model, shipped_sae

from saesteer.core.markdown import number
from saesteer.core.tables import FEATURES, validate
from saesteer.core.tokens import load_tokens
from saesteer.core.uncertainty import RATINGS, mean_interval, of_differences
from saesteer.methods.fit.problem import Problem, Text
from saesteer.run import Run, open_run
from saesteer.settings import IntervalSettings, load_workflow
from saesteer.settings.recipes import Training
from saesteer.world.judges import load_judge
from studies import ROOT
from studies.pages.questions import BLOCKS, LABEL_FOLDER
from studies.questions import attributes as study
from studies.questions.attributes import chosen_factors, compared, picks, rated, stretches
from studies.questions.summaries.attributes import BEST, BY_COLUMN, DIFFMEAN, DIFFMEAN_LAST, OF_A_FEATURE, RANDOM, RULES, UNSTEERED
from studies.questions.tables import ATTRIBUTES
from studies.questions.text_attributes import ATTRIBUTES as WORDS
from studies.questions.text_attributes import has, paired

LAYER = 3


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        ("Don't you see?", {"question", "second person", "contractions", "negation"}),
        (" It was not hers.", {"past", "negation", "third person"}),
        ("“Is it ours,” said the sailor.", {"direct speech", "present", "first person"}),
        ("Therefore, when history shifts, themes are kept", {"formal words", "subordinate clause", "present"}),
        ("they’re so late, I can't", {"contractions", "first person", "negation"}),
        ("the sailor hoisted this sail.", set()),
        ("", set()),
    ],
)
def test_a_text_has_the_attributes_whose_words_it_has(text: str, attributes: set[str]) -> None:
    assert {name for name in WORDS if has(name, text)} == attributes


def test_every_stretch_with_an_attribute_is_paired_with_one_of_its_topic() -> None:
    """By hand: three of five on the sea were, one of three on war; on law none lacks it. So there are 2 + 1 pairs."""
    was = {"sea": [1, 1, 1, 0, 0], "war": [1, 0, 0], "law": [1, 1]}
    rows = [(topic, f"{n} {'was' if had else 'goes'}") for topic, of in was.items() for n, had in enumerate(of)]
    every = pl.DataFrame(rows, ["concept", "text"], orient="row")
    having, lacking = paired(every, "past", 9)
    assert having["concept"].to_list() == lacking["concept"].to_list()
    assert sorted(having["concept"]) == ["sea", "sea", "war"]
    assert all(has("past", text) for text in having["text"])
    assert not any(has("past", text) for text in lacking["text"])
    assert having.unique().height == lacking.unique().height == 3
    first, second = paired(every, "past", 2)
    assert (first.rows(), second.rows()) == (having.head(2).rows(), lacking.head(2).rows())
    assert [group.height for group in paired(every, "question", 9)] == [0, 0]


def test_stretches_are_whole_and_say_what_they_hold() -> None:
    lm = shipped_model()
    ids = lm.tokenizer("The sailor hoisted a sail. The captain rowed.")["input_ids"]
    made = stretches(pl.DataFrame({"concept": ["sea"], "token_ids": [ids]}), lm, 4)
    assert [len(of) for of in made["ids"]] == [5, 9]
    assert made["start"].to_list() == [1, 5]
    assert [text.strip() for text in made["text"]] == ["The sailor hoisted a", "sail. The captain"]


def test_the_best_factor_is_chosen_and_the_best_feature_comes_first() -> None:
    """By hand: 7 is best at 2 (a mean of 1), 9 ties at 1 and 2, of equals the first option comes first."""
    rows = [("9", 2.0, 0.5), ("9", 1.0, 0.5), ("7", 1.0, 0.0), ("7", 2.0, 0.5), ("7", 2.0, 1.5), ("3", 1.0, 0.5), ("3", 2.0, None)]
    made = chosen_factors(pl.DataFrame(rows, ["option", "factor", "score"], orient="row"))
    assert list(made.items()) == [("7", 2.0), ("9", 1.0), ("3", 1.0)]


def test_each_rule_picks_the_largest_of_its_column() -> None:
    columns = {"auroc": [0.9, 0.8, 0.7], "cosine": [0.1, 0.3, 0.2], "max_activation": [1.0, 2.0, 2.0], "output_score": [0.0, 0.0, 0.5]}
    pool = pl.DataFrame({"feature": pl.Series([7, 9, 3], dtype=pl.UInt32), **columns})
    picked = picks(pool, [DIFFMEAN, "9", "7", "3"])
    assert picked == dict(zip([*BY_COLUMN.values(), BEST], ["7", "9", "3", "3", "9"], strict=True))  # of equals the lowest number


def test_differences_are_paired_by_prompt_and_random_is_the_pools_mean() -> None:
    """By hand: feature 7 scores 2 and 0, 9 scores 1 and 1, so the pool's means are 1.5 and 0.5; DiffMean scores 0 and 1."""
    scores = {"7": (2.0, 0.0), "9": (1.0, 1.0), DIFFMEAN: (0.0, 1.0), UNSTEERED: (0.0, 0.0)}
    rows = [(option, prefix, float(score > 0), 1.5, score) for option, of in scores.items() for prefix, score in zip("ab", of, strict=True)]
    reported = pl.DataFrame(rows, ["option", "prefix_id", "share", "fluency", "score"], orient="row")
    picked = {"AUROC": "7", BEST: "9", DIFFMEAN: DIFFMEAN, UNSTEERED: UNSTEERED}
    by_rule = {row["rule"]: row for row in compared(reported, ["7", "9"], picked, IntervalSettings())}
    assert list(by_rule) == [rule for rule in RULES if rule in {*picked, RANDOM}]
    assert {rule: row["score"] for rule, row in by_rule.items()} == {"AUROC": 1.0, RANDOM: 1.0, BEST: 1.0, DIFFMEAN: 0.5, UNSTEERED: 0.0}
    assert {rule: row["share"] for rule, row in by_rule.items()} == {"AUROC": 0.5, RANDOM: 0.75, BEST: 1.0, DIFFMEAN: 0.5, UNSTEERED: 0.0}
    for rule, column, differences in (
        ("AUROC", "above_random", (0.5, -0.5)),
        (BEST, "above_random", (-0.5, 0.5)),
        (DIFFMEAN, "above_random", (-1.5, 0.5)),
        ("AUROC", "above_diffmean", (2.0, -1.0)),
        (RANDOM, "above_diffmean", (1.5, -0.5)),
    ):
        ends = mean_interval(np.array(differences), 0.95, of_differences(RATINGS))
        found = tuple(by_rule[rule][f"{column}{end}"] for end in ("", "_low", "_high"))
        assert found == pytest.approx((np.mean(differences), *(ends or ())))
    assert by_rule[RANDOM]["above_random"] is by_rule[DIFFMEAN]["above_diffmean"] is None


def test_a_broken_or_blank_text_scores_nothing() -> None:
    judge = load_judge(ROOT / "data/world/oracle", load_tokens(ROOT / "data/world/model"))
    texts = [
        " if our sail was torn, the sailor sailed.",
        " if the sail was torn, the sailor sailed.",
        " our our our our our our",
        " ",
        None,
    ]
    rows = [{"method": "7", "factor": "2.0", "prefix_id": "p", "sample": n, "layer": 3, "target": ""} for n in range(len(texts))]
    made = pl.DataFrame(rows).with_columns(text=pl.Series(texts), mean_nll=pl.Series([2.0, 2.0, 2.0, None, None]))
    scored = rated(made, "first person", judge)
    assert scored.columns == ["prefix_id", "share", "fluency", "option", "factor", "score"]
    assert scored["share"].to_list() == [1, 0, 1, 0]
    assert scored["fluency"].to_list() == [2, 2, 0, 0]
    assert scored["score"].to_list() == [2, 0, 0, 0]
    assert scored["factor"].to_list() == [2.0] * 4


def _attribute(run: Run) -> study._Attribute:
    """Of a few stretches, with made-up scores of the features."""
    lm, sae = shipped_model(), shipped_sae(LAYER)
    labelled = pl.read_parquet(run.file("texts")).with_columns(concept=pl.lit("any"))
    every = [stretches(labelled[half:160:2], lm, 20) for half in (0, 1)]
    ids = np.arange(sae.W_dec.shape[0])
    scores = {"feature": ids, "max_activation": 1.0 + ids, "output_score": np.cos(ids) ** 2}
    features = pl.DataFrame({"layer": [LAYER] * len(ids), **scores, "concept": [None] * len(ids)})
    features = features.cast({name: FEATURES.schema[name] for name in features.columns})
    problems = []
    for half in every:
        groups = ([Text(ids, start) for ids, start in group.select("ids", "start").iter_rows()] for group in paired(half, "past", 32))
        problems.append(Problem(lm, sae, LAYER, "past", *map(tuple, groups), features, 0, Training({})))
    return study._Attribute(run, lm, run.world_judge(), *problems)


def test_no_prompt_both_chooses_and_reports_and_the_pool_is_of_the_training_half(monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run("tiny-brute", load_workflow({"experiments": ["tiny-brute"]}))
    sweep = run.sweep.sweep.model_copy(update={"factors": ("0", "1"), "max_new_tokens": 8})
    run = replace(run, experiment=run.sweep.model_copy(update={"sweep": sweep}))
    calls = []

    def recorded(*arguments):
        texts = measured(*arguments)
        calls.append(texts)
        return texts

    measured = study.rated_texts
    monkeypatch.setattr(study, "rated_texts", recorded)
    monkeypatch.setattr(study, "POOL", 2)
    monkeypatch.setattr(study, "DIFFMEAN_FACTORS", ("0.4", "1"))
    of = _attribute(run)
    rows = {row["rule"]: row for row in of.rows()}
    validate(ATTRIBUTES, pl.DataFrame(list(rows.values()), ATTRIBUTES.schema), "here")
    choosing, reporting = (set(texts["prefix_id"]) for texts in calls)
    assert (len(choosing), len(reporting)) == (10, 40)
    assert not choosing & reporting
    assert calls[0].group_by("method", "factor", "prefix_id").len()["len"].unique().to_list() == [study.N_CHOOSING]
    assert list(rows) == list(RULES)
    first, second = (values.numpy() for values in of.train.largest_activations)
    area = ((first[:, None] > second[None]) + 0.5 * (first[:, None] == second[None])).mean(axis=(0, 1))
    largest = sorted(range(len(area)), key=lambda feature: (-area[feature], feature))
    assert of.pool["feature"].to_list() == largest[:2]
    assert {rows[rule]["feature"] for rule in OF_A_FEATURE} - {None} <= {*largest[:2]}
    monkeypatch.setattr(study, "POOL", 12)
    assert replace(of).pool["feature"].to_list() == largest[:12]
    for rule in ("AUROC", DIFFMEAN, DIFFMEAN_LAST, UNSTEERED):
        option = str(rows[rule]["feature"]) if rule == "AUROC" else rule
        texts = calls[1].filter(method=option)
        assert rows[rule]["n"] == texts.height == 40
        assert rows[rule]["share"] == pytest.approx(np.mean([has("past", text) for text in texts["text"]]))
        assert float(rows[rule]["factor"]) == float(texts["factor"][0])
    unseen = of.test.largest_activations
    feature = rows["AUROC"]["feature"]
    above = unseen[0][:, feature, None] - unseen[1][None, :, feature]
    assert rows["AUROC"]["auroc"] == pytest.approx(float((torch.sign(above) + 1).mean() / 2))


def test_the_page_shows_means_over_attributes_and_counts_those_that_are_left_out(tmp_path: Path) -> None:
    """By hand: the cosine's pick is .5 and .1 above a random one, .3 in the mean."""
    cosine = BY_COLUMN["cosine"]
    rows = [
        {"layer": LAYER, "attribute": attribute, "rule": rule, "n_having": 90, "n": 40, "share": 0.25, "score": 0.5, "above_random": above}
        for attribute, above in (("past", 0.5), ("negation", 0.1))
        for rule in (cosine, UNSTEERED)
    ]
    rows.append({"layer": LAYER, "attribute": "question", "rule": UNSTEERED, "n_having": 7, "n": 0})
    (tmp_path / LABEL_FOLDER / "tiny-x").mkdir(parents=True)
    pl.DataFrame(rows, ATTRIBUTES.schema).write_csv(tmp_path / LABEL_FOLDER / "tiny-x/attributes.csv")
    lines = {line.split(" | ")[2]: line.split(" | ")[3:] for line in BLOCKS["open-attributes"].markdown(tmp_path).splitlines()[2:]}
    low, high = mean_interval(np.array([0.5, 0.1]), 0.95, of_differences(RATINGS)) or (0, 0)
    assert lines[cosine][0] == "2"
    assert lines[cosine][4] == f"0.30 [{number(low)}, {number(high)}]"
    shares = BLOCKS["open-attribute-shares"].markdown(tmp_path).splitlines()[2:]
    assert [line.split(" | ")[1:5] for line in shares] == [
        ["question", "3", "7", "–"],
        ["past", "3", "90", "0.25"],
        ["negation", "3", "90", "0.25"],
    ]
    assert len(BLOCKS["open-attribute-scores"].markdown(tmp_path).splitlines()) == 2 + 2
