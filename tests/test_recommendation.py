"""Which feature is recommended for a concept, by hand-made ratings."""

import io
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from saesteer.analysis.recommendation import Estimate, as_multiple, candidates, fired_on, is_above, perplexity_ratio, recommend, weighed
from saesteer.cli import app
from saesteer.core.uncertainty import Interval
from saesteer.report.by_words import rated_by_words
from saesteer.report.candidates import picked_features
from saesteer.report.recommend import Answer, Question, as_sweep, gist, ordinary_losses, page_of, show
from saesteer.report.verdicts import sentences_of, shown
from saesteer.run import Run
from saesteer.settings import LocalExamples, SelectionSettings, SettingsError, load_experiment
from saesteer.settings.load import load_workflow, read_yaml

WORKFLOW = load_workflow(read_yaml(Path("config/config.yaml")))
SETTINGS = SelectionSettings(thresholds=(0.1,), late_layers_from=1, bootstrap_draws=400)
PROMPTS = [f"p{number}" for number in range(8)]


def ratings(kind: str, layer: int, name: str, factor: str, scores: list[float | None]) -> pl.DataFrame:
    columns = {"kind": kind, "layer": layer, "name": name, "factor": factor, "prefix_id": PROMPTS, "judge_score": scores}
    rows = pl.DataFrame(columns, schema_overrides={"judge_score": pl.Float64}, strict=False)
    return rows.with_columns(concept_rating=pl.col("judge_score"), fluency_rating=pl.lit(2.0))


def unsteered(score: float = 0.25) -> pl.DataFrame:
    return pl.DataFrame({"prefix_id": PROMPTS, "judge_score": [score, 0.0] * 4})


def test_feature_and_factor_are_chosen_on_the_other_half():
    """By hand: on the even prompts 7 is best, on the odd ones 9; held out each gets what the other half's choice scores there."""
    rated = pl.concat([ratings("feature", 3, "7", "1", [2, 1] * 4), ratings("feature", 3, "9", "2", [0, 1.5] * 4)])
    result = recommend("sea", rated, unsteered(), SETTINGS)
    chosen = result.feature
    assert chosen is not None
    assert (chosen.name, chosen.factor) == ("7", "1")  # on all prompts 1.5 against .75
    assert chosen.by_prompt == {prompt: (0.0 if number % 2 == 0 else 1.0) for number, prompt in enumerate(PROMPTS)}
    assert (chosen.score.mean, chosen.score.n, chosen.fluency.mean) == (0.5, 8, 2.0)
    assert chosen.above_unsteered.mean == pytest.approx(0.5 - 0.125)


@pytest.mark.parametrize(
    ("score", "verdict", "words"),
    [
        (1.7, "use", "Use feature 3/7"),
        (1.04, "weak", "steers towards 'sea', but there are too few prompts to show that its score is 1 or more"),
        (0.75, "weak", "steers weakly towards 'sea'"),
        (0.1, "none", "No candidate is seen to steer"),
    ],
)
def test_the_verdict_goes_by_the_intervals_of_the_score_and_of_its_difference_to_unsteered(score: float, verdict: str, words: str):
    """A mean of 1.04 is above 1, its interval is not; that of .75 ends below 1."""
    rated = ratings("feature", 3, "7", "1", [score * 1.1, score * 0.9] * 4)
    result = recommend("sea", rated, unsteered(), SETTINGS)
    assert result.verdict == verdict
    assert words in sentences_of(result)[0]


@pytest.mark.parametrize(
    ("perplexity", "loss", "verdict"),
    [(3.0, 0.2, "use"), (3.0, None, "use"), (4857.0, 0.2, "harmful"), (3.0, 8.0, "harmful"), (3.9, 0.2, "harmful")],
    ids=["little", "loss unknown", "texts", "ordinary texts", "interval"],
)
def test_damage_decides_with_the_score(perplexity: float, loss: float | None, verdict: str):
    """The whole interval has to be within the limit: of 3.9 it reaches to 4.9."""
    rated = ratings("feature", 3, "7", "1", [1.9, 1.8] * 4)
    of_texts = Estimate(perplexity, Interval(perplexity - 1, perplexity + 1) if perplexity > 3.5 else Interval(2.9, 3.1), 8)
    of_ordinary = None if loss is None else as_multiple(Estimate(loss, Interval(loss, loss), 8))
    result = weighed(recommend("sea", rated, unsteered(), SETTINGS), [of_texts, of_ordinary], [], 4.0)
    assert result.verdict == verdict
    assert sentences_of(result)[0].startswith("Use feature 3/7" if verdict == "use" else "Do not use feature 3/7 at factor 1: it steers")
    weak = recommend("sea", ratings("feature", 3, "7", "1", [0.8, 0.7] * 4), unsteered(), SETTINGS)
    assert weighed(weak, [of_texts], [], 1.0) == weak


def with_loss(rated: pl.DataFrame, loss: float, spread: float = 0.0) -> pl.DataFrame:
    """The same with a mean_nll of each prompt, `spread` above and below in turns of two."""
    return rated.with_columns(mean_nll=loss + spread * (pl.int_range(pl.len()) // 2 % 2 * 2 - 1))


def test_under_a_limit_on_damage_the_strength_is_the_best_of_those_that_are_seen_to_be_within_it():
    """The stronger factor has the higher score at exp(2) = 7.4 times the unsteered perplexity; of the middle one, at 2.7 times, the
    interval reaches beyond 4; the smallest is at 1.6 times. Without a limit the strongest is recommended."""
    middle = with_loss(ratings("feature", 3, "7", "4", [1.95] * 8), 2.0, 0.6)
    rated = pl.concat(
        [
            with_loss(ratings("feature", 3, "7", "8", [2.0] * 8), 3.0),
            middle,
            with_loss(ratings("feature", 3, "7", "2", [1.9, 1.8] * 4), 1.5),
        ]
    )
    plain = with_loss(unsteered(), 1.0)
    chosen = {limit: recommend("sea", rated, plain, SETTINGS, limit).feature for limit in (None, 8.0, 4.0, 2.0, 1.2)}
    assert [choice and (choice.factor, choice.score.mean) for choice in chosen.values()] == [
        ("8", 2.0), ("8", 2.0), ("2", pytest.approx(1.85)), ("2", pytest.approx(1.85)), None,
    ]  # fmt: skip
    (nothing,) = sentences_of(recommend("sea", rated, plain, SETTINGS, 1.2))
    assert nothing == "No text of a candidate for 'sea' could be rated, or was within the limit on damage."
    assert chosen[4.0] is not None
    within = perplexity_ratio(chosen[4.0], rated, plain, SETTINGS)
    assert weighed(recommend("sea", rated, plain, SETTINGS, 4.0), [within], [], 4.0).verdict == "use"


def test_a_half_of_the_prompts_keeps_to_the_limit_by_its_own_texts():
    """On the even prompts the strong factor is within the limit, on the odd ones above: only the first choose it, for the odd ones."""
    even = pl.int_range(pl.len()) % 2 == 0
    strong = ratings("feature", 3, "7", "8", [2.0] * 8).with_columns(mean_nll=pl.when(even).then(1.1).otherwise(4.0))
    rated = pl.concat([strong, with_loss(ratings("feature", 3, "7", "2", [1.0] * 8), 1.1)])
    choice = recommend("sea", rated, with_loss(unsteered(), 1.0), SETTINGS, 4.0).feature
    assert choice is not None
    assert choice.factor == "2"
    assert choice.by_prompt == {prompt: 1.0 if number % 2 == 0 else 2.0 for number, prompt in enumerate(PROMPTS)}


def test_what_is_not_finite_is_above_every_limit_and_no_rise_is_too_large():
    nan, huge = Estimate(float("nan"), Interval(float("nan"), float("nan")), 8), Estimate(2e3, Interval(1e3, 3e3), 8)
    assert all(is_above(as_multiple(rise), 1e9) for rise in (nan, huge))


@pytest.mark.parametrize("limit", ["-1", "0.5", "nan", "inf"])
def test_a_limit_that_is_none_is_refused_before_anything_is_read(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["recommend", "micro", "sea", "--max-damage", limit])
    assert result.exit_code == 1
    assert "give a multiple of the unsteered perplexity, 1 or more" in " ".join(result.output.split())


def test_ties_go_to_the_smaller_factor_and_ratings_that_are_missing_count_nowhere():
    rated = pl.concat([ratings("feature", 3, "7", factor, [1, None, 1, 1, 1, 1, None, 1]) for factor in ("10", "2", "4")])
    chosen = recommend("sea", rated, unsteered(), SETTINGS).feature
    assert chosen is not None
    assert (chosen.factor, chosen.score.n) == ("2", 6)
    nothing = recommend("sea", ratings("feature", 3, "7", "1", [None] * 8), unsteered(), SETTINGS)
    assert (nothing.verdict, nothing.feature) == ("none", None)


def test_rivals_come_in_order_with_their_difference_by_prompt():
    rivals = [ratings("prompting", 3, "prompting", "2", [1.5] * 8), ratings("diffmean", 3, "diffmean", "1", [2] * 8)]
    rated = pl.concat([ratings("feature", 3, "7", "1", [1, 1.5] * 4), *rivals])
    result = recommend("sea", rated, unsteered(), SETTINGS)
    assert [rival.kind for rival in result.rivals] == ["diffmean", "prompting"]
    assert [estimate.mean for estimate in result.behind] == [0.75, 0.25]
    low, high = result.behind[0].interval or (None, None)
    assert low is not None
    assert 0.5 <= low < 0.75 < high <= 1.0


def test_candidates_match_by_label_before_explanation_before_lens_and_then_by_their_largest_example():
    features = pl.DataFrame(
        {
            "layer": [3, 3, 3, 3, 3, 6, 6],
            "feature": [1, 2, 3, 4, 5, 1, 2],
            "concept": ["sea", "Sea", None, None, "tea", None, "sea"],
            "explanation": [None, None, "ships at sea", None, None, "The season", None],
            "top_logit_lens_tokens": [["▁a"], ["▁sea"], ["b"], ["▁Sea", "x"], ["c"], ["d"], ["e"]],
            "max_activation": [1.0, 5.0, 9.0, 9.0, 9.0, 2.0, None],
            "fires_on": [None, "tea", None, None, "seas", None, None],
            "near": [False] * 7,
        }
    )
    assert candidates(features, "sea", 3).rows() == [(3, 2, "label"), (3, 1, "label"), (3, 3, "explanation"), (6, 1, "explanation")]
    assert candidates(features, "sea", 9).rows()[3:5] == [(3, 5, "examples"), (3, 4, "lens")]
    searched = candidates(features.with_columns(near=pl.col("feature") == 4), "sea", 9)
    assert searched.rows()[3:5] == [(3, 4, "search"), (3, 5, "examples")]
    assert candidates(features, "opera", 3).is_empty()


def test_a_lens_token_may_be_the_beginning_of_the_word():
    """Half of it at least, and at the beginning of a word."""
    lens = [["▁me"], ["▁medi"], ["medi"], [" medic", "x"], ["▁medicine"], ["▁medicines"]]
    columns = {"layer": [3] * 6, "feature": range(6), "concept": None, "explanation": None, "fires_on": None, "near": False}
    features = pl.DataFrame(columns | {"top_logit_lens_tokens": lens, "max_activation": [1.0] * 6}, strict=False)
    features = features.cast(dict.fromkeys(("concept", "explanation", "fires_on"), pl.String))
    beginning = "lens, beginning"
    assert candidates(features, "medicine", 9).rows() == [(3, 4, "lens"), (3, 1, beginning), (3, 3, beginning)]


def test_directions_need_no_label_and_take_turns_with_what_shows_the_word():
    cosines = [0.1, 0.9, -0.5, 0.8, None, 0.7]
    columns = {"layer": [3] * 6, "feature": range(6), "explanation": None, "near": False, "top_logit_lens_tokens": [["▁a"]] * 6}
    columns |= {"concept": [None, None, None, None, "sea", None], "fires_on": ["sea", None, "sea", "sea", None, None], "cosine": cosines}
    features = pl.DataFrame(columns | {"max_activation": [9.0, 1.0, 8.0, 1.0, 1.0, 1.0]}, strict=False).cast({"explanation": pl.String})
    expected = [(3, 4, "label"), (3, 0, "examples"), (3, 1, "direction"), (3, 2, "examples"), (3, 3, "direction"), (3, 5, "direction")]
    assert candidates(features, "sea", 9).rows() == expected
    assert candidates(features, "sea", 3).rows() == expected[:3]


def example(context: list[str], at: int) -> dict[str, Any]:
    return {"token": context[at], "token_index": at, "context": context}


def test_a_feature_fires_on_the_word_of_most_of_its_examples_over_the_borders_of_tokens():
    """By hand, in both ways of writing a token's space."""
    dog, hotdog, end = ["<s>", "▁The", "▁d", "o", "g", "s", "▁ran", "."], [" hot", "dog", " and", " don", "'t"], ["▁a", "▁dog", "."]
    examples = pl.DataFrame(
        {
            "layer": [3, 3, 3, 6],
            "feature": [1, 2, 4, 1],
            "examples": [
                [example(dog, 3), example(dog, 4), example(dog, 6)],
                [example(hotdog, 4), example(hotdog, 3), example(hotdog, 1)],
                [example(end, 2), example(end, 2), example(end, 1)],
                [],
            ],
        }
    )
    assert fired_on(examples).rows() == [(3, 1, "dogs"), (3, 2, "don't"), (3, 4, ".")]


def test_perplexity_is_compared_prompt_by_prompt():
    """By hand: two texts a prompt, unsteered 1 nat each; steered 1 + ln 2 on even and 1 + ln 8 on odd prompts: 2 and 8 times, 4 in the
    geometric mean."""
    rated = ratings("feature", 3, "7", "1", [1.5] * 8)
    steered = rated.with_columns(mean_nll=1 + pl.Series([2.0, 8.0] * 4).log())
    plain = rated.with_columns(mean_nll=pl.lit(1.0))
    chosen = recommend("sea", steered, unsteered(), SETTINGS).feature
    assert chosen is not None
    ratio = perplexity_ratio(chosen, pl.concat([steered, steered]), plain, SETTINGS)
    assert ratio.mean == pytest.approx(4.0)
    low, high = ratio.interval or (0.0, 0.0)
    assert 2 <= low < 4 < high <= 8


def test_a_models_text_cannot_break_the_page_or_command_the_terminal():
    """Cell ends, line ends, links and HTML in texts and tokens are shown as they are."""
    hostile = "a | b\n\n# c <script>alert(1)</script> [d](javascript:e) \x1b[2J"
    rated = ratings("feature", 3, "7", "1", [1.5] * 8).with_columns(prompt=pl.lit("I"), text=pl.lit(hostile))
    plain = rated.with_columns(factor=pl.lit("0"))
    row = {
        "layer": 3,
        "feature": 7,
        "match": "explanation",
        "concept": None,
        "explanation": hostile,
        "label": hostile,
        "labelled": f"{hostile} (label by {hostile})",
        "fires_on": None,
        "top_logit_lens_tokens": [hostile],
    }
    picked = pl.DataFrame([row | {"input_score": 0.5, "output_score": 0.5}])
    question = Question("tiny", "sea", 4, 1, Path("config.yaml"), None)
    answered = Answer(question, recommend("sea", rated, plain, SETTINGS), None, None, picked, pl.concat([rated, plain]))
    page = page_of(answered)
    cells = [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in page.splitlines() if line.startswith("|")]
    assert cells == [2] * 7 + [8] * 3 + [4] * 7
    console = Console(width=100, record=True, file=io.StringIO())
    show(answered, console)
    assert "\x1b" not in console.export_text()
    markup = re.sub(r"\\.", "", page)
    assert "<" not in markup
    assert "](" not in markup


def test_without_ordinary_texts_that_are_long_enough_their_loss_is_unknown(tmp_path: Path):
    """31 texts of two words are refused by nobody: the answer says unknown."""
    pl.DataFrame({"text": ["The sea"] * 31}).write_parquet(tmp_path / "texts.parquet")
    experiment = load_experiment("tiny", *WORKFLOW.experiments_dirs)
    short = experiment.model_copy(update={"max_activating_examples": LocalExamples(kind="local", texts=tmp_path / "texts.parquet")})
    assert ordinary_losses(Run(WORKFLOW, "tiny", short), [(3, "7", "1")]) == {}
    assert shown(None) == "unknown"


def test_scores_are_steered_with_as_the_sweep_that_they_extend(tmp_path: Path):
    """Scores alone, without a sweep below them, have no factors, prompts and judge to recommend by."""
    tiny, scored = (as_sweep(WORKFLOW, name).sweep for name in ("tiny", "tiny-all"))
    assert (scored.sweep, scored.judge, scored.selection) == (tiny.sweep, tiny.judge, tiny.selection)
    assert scored.features.kind == "all"
    values = load_experiment("tiny-all", *WORKFLOW.experiments_dirs).model_dump(mode="json") | {"extends": None}
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(values))
    alone = WORKFLOW.model_copy(update={"experiments_dirs": (tmp_path,)})
    with pytest.raises(SettingsError, match=r"alone has to be of kind sweep, or to extend one that is.*(\n.*)*judge: this key is missing"):
        as_sweep(alone, "alone")


def test_a_rival_that_is_better_and_steers_well_is_to_be_used_instead():
    """A prompt has no layer, a vector has."""
    rivals = [ratings("prompting", 3, "prompting", "2", [2.0, 1.75] * 4), ratings("diffmean", 6, "diffmean", "1.5", [0.25, 0.5] * 4)]
    rated = pl.concat([ratings("feature", 3, "7", "1", [1.0] * 8), *rivals])
    _, prompt, vector = sentences_of(recommend("sea", rated, unsteered(), SETTINGS))
    assert prompt.startswith("prompting at factor 2: judge score 1.88 [")
    assert prompt.endswith("(n = 8)): use it instead.")
    assert vector.startswith("diffmean at layer 6, factor 1.5: judge score 0.38 [")
    assert "; worse than the feature (-0.6" in vector


@pytest.mark.parametrize(
    ("multiple", "advice"), [(3.0, ": use it instead."), (5.0, ", but its damage is above recommendation.damage_limit.")]
)
def test_a_rival_that_breaks_its_texts_is_not_to_be_used_instead(multiple: float, advice: str):
    rated = pl.concat([ratings("feature", 3, "7", "1", [1.0] * 8), ratings("prompting", 3, "prompting", "2", [2.0, 1.75] * 4)])
    damage = Estimate(multiple, Interval(multiple - 0.5, multiple + 0.5), 8)
    result = weighed(recommend("sea", rated, unsteered(), SETTINGS), [None], [damage], 4.0)
    prompt = sentences_of(result)[1]
    assert f"; perplexity of its texts {multiple:.2f} [" in prompt
    assert "× unsteered, loss on ordinary text not measured; better than the feature" in prompt
    assert prompt.endswith(f"(n = 8)){advice}")


def test_texts_are_rated_by_the_words_of_the_concept_by_hand():
    """Unsteered texts have a loss of 2: fluency is 2 up to 2 + ln 2, 1 up to 2 + ln 4, and 0 of what repeats itself."""
    by_hand = [  # text, loss, concept, fluency, score
        (" a Dogs' day", 2.7, 1, 1, 1.0),
        ("dogma", 1.0, 0, 2, 0.0),
        ("hot", 2.6, 1, 2, 4 / 3),
        (" ...", 1.0, None, 2, None),
        ("hot dog hot dog hot dog", 0.5, 2, 0, 0.0),
        ("a hot dog", 3.3, 2, 1, 4 / 3),
        ("the hot dogs", 3.4, 2, 0, 0.0),
    ]
    texts, losses, *expected = zip(*by_hand, strict=True)
    rows = {"kind": "feature", "factor": ["0", *["1"] * 7], "text": ["so", *texts], "mean_nll": [2.0, *losses]}
    rated = rated_by_words(pl.DataFrame(rows), "hot dog", 4.0)[1:]
    for column, values in zip(("concept_rating", "fluency_rating", "judge_score"), expected, strict=True):
        assert rated[column].to_list() == pytest.approx(list(values)), column


def test_an_answer_by_words_says_so():
    rated = ratings("feature", 6, "8", "2", [2.0] * 8).with_columns(prompt=pl.lit("I"), text=pl.lit(" see"))
    plain = rated.with_columns(factor=pl.lit("0"), judge_score=pl.lit(0.0))
    picked = pl.DataFrame(
        {"layer": [6], "feature": [8], "match": ["lens"], "concept": None, "explanation": None, "fires_on": ["sea"], "input_score": 0.5}
        | {"output_score": 0.5, "top_logit_lens_tokens": [["ship"]], "label": None, "labelled": None}
    )
    question = Question("own", "sea", 4, 1, Path("config.yaml"), None)
    recommended = recommend("sea", rated, plain, SETTINGS)
    answered = Answer(question, recommended, Estimate(None, None, 0), None, picked, pl.concat([rated, plain]), by_words=True)
    for said in ("\n".join(gist(answered)), page_of(answered)):
        assert "Rated by words, not by a judge" in said
        assert "score by words 2.00 [" in said
        assert "judge score" not in said


def test_a_concept_that_nothing_points_to_is_refused_with_the_nearest_label(monkeypatch: pytest.MonkeyPatch):
    columns = {"layer": [6, 6], "feature": [1, 2], "concept": ["medicine", "sea"], "explanation": [None, None]}
    lens = {"top_logit_lens_tokens": [["▁a"], ["▁b"]], "max_activation": [1.0, 2.0]}
    features = pl.DataFrame(columns | lens, schema_overrides={"explanation": pl.String})
    monkeypatch.setattr(Run, "summary_path", lambda *_: Path("config"))
    monkeypatch.setattr(Run, "summary", lambda *_: features)
    monkeypatch.setattr(Run, "rows", lambda *_: features.with_columns(examples=pl.Series([[example(["▁c"], 0)]] * 2)))
    tiny = as_sweep(WORKFLOW, "tiny")
    with pytest.raises(SettingsError, match=r"fires on or promotes 'medecine'\. Did you mean 'medicine'\? Labels are medicine, sea"):
        picked_features(tiny, "medecine", 4, Path("config.yaml"))


def test_a_terminal_gets_ten_lines_and_a_table_in_plain_text():
    """By hand: of ten candidates the best eight by their mean scores, an unrated one last; lens tokens as words."""
    rated = [
        ratings("feature", 6, str(feature), "2", [feature / 4] * 8).with_columns(prompt=pl.lit("I"), text=pl.lit(" see"))
        for feature in range(9)
    ]
    rivals = [
        ratings(kind, 6, kind, "1", [1.0] * 8).with_columns(prompt=pl.lit("I"), text=pl.lit(" say")) for kind in ("prompting", "diffmean")
    ]
    plain = rated[0].with_columns(name=pl.lit("8"), factor=pl.lit("0"), judge_score=pl.lit(0.0))
    known = {"match": "label", "concept": "sea", "explanation": None, "fires_on": None, "top_logit_lens_tokens": ["▁ship", "▁", "port"]}
    known |= {"label": None, "labelled": None}
    picked = pl.DataFrame([{"layer": 6, "feature": feature} | known | {"input_score": 0.5, "output_score": None} for feature in range(10)])
    recommended = recommend("sea", pl.concat([*rated, *rivals]), plain, SETTINGS)
    question = Question("tiny", "sea", 4, 1, Path("config.yaml"), None)
    answered = Answer(question, recommended, Estimate(None, None, 0), None, picked, pl.concat([*rated, *rivals, plain]))
    lines = gist(answered)
    assert len(lines) == 10
    assert lines[0] == "tiny: sea"
    assert lines[1].startswith("Use feature 6/8 at factor 2: judge score 2.00")
    assert lines[7:] == ["Unsteered: I see", "Steered: I see", "Try it: saesteer steer tiny 6/8 I --factor 2"]
    console = Console(width=80, record=True, file=io.StringIO())
    show(answered, console)
    shown_text = console.export_text()
    assert re.findall(r"│ 6/(\d) +│", shown_text) == list("87654321")
    assert "8 of 10 candidates" in shown_text
    assert "│ ship port" in shown_text
    assert not re.search(r"[▁#*]|\| ", shown_text)
