"""What `saesteer recommend` answers, by hand-made ratings: what it refuses, rates by words, and shows."""

import io
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from rich.console import Console
from test_recommendation import WORKFLOW, ratings, recommended, unsteered, with_loss

from saesteer.recommendations.answer import Answer, as_sweep, of_rivals
from saesteer.recommendations.presentation import gist, page_of, sentences_of, show, shown
from saesteer.recommendations.question import RecommendRequest, with_concept_and_another
from saesteer.recommendations.scoring import ordinary_losses, rated_by_words
from saesteer.run import Run, open_run
from saesteer.settings import EmbeddingJudge, LocalExamples, MethodSettings, ModelSource, SettingsError, load_experiment
from saesteer.settings.steps import PerplexitySettings


def request(concept: str = "sea", comparison: str | None = None, words: tuple[str, ...] = ()) -> RecommendRequest:
    return RecommendRequest("tiny", concept, 4, 1, Path("config.yaml"), comparison, words=words)


def answered_by(rated: pl.DataFrame, plain: pl.DataFrame, *picked: dict[str, Any], words: tuple[str, ...] = ()) -> Answer:
    """The answer of texts that choose and score, and of candidates."""
    texts = pl.concat([rated, plain])
    return Answer(request(words=words), recommended(rated, plain), pl.DataFrame(picked), texts, texts, by_words=bool(words))


CANDIDATE = dict.fromkeys(("concept", "explanation", "label", "labelled", "fires_on"))
CANDIDATE |= {"match": "lens", "top_logit_lens_tokens": ["ship"], "input_score": 0.5, "output_score": 0.5}
"""What is known of a candidate, but for its layer and number."""


@pytest.mark.parametrize("limit", [-1.0, 0.5, math.nan, math.inf])
def test_a_limit_that_is_none_is_refused_before_anything_is_read(limit: float):
    with pytest.raises(SettingsError, match="give a multiple of the unsteered perplexity, 1 or more"):
        replace(request(), max_damage=limit)


def test_a_models_text_cannot_break_the_page_or_command_the_terminal():
    """Cell ends, line ends, links and HTML in texts and tokens are shown as they are."""
    hostile = "a | b\n\n# c <script>alert(1)</script> [d](javascript:e) \x1b[2J"
    rated = ratings("feature", 3, "7", "1", [1.5] * 8).with_columns(prompt=pl.lit("I"), text=pl.lit(hostile))
    plain = rated.with_columns(factor=pl.lit("0"))
    said = {"explanation": hostile, "label": hostile, "labelled": f"{hostile} (label by {hostile})", "top_logit_lens_tokens": [hostile]}
    answered = answered_by(rated, plain, CANDIDATE | said | {"layer": 3, "feature": 7})
    page = page_of(answered)
    cells = [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in page.splitlines() if line.startswith("|")]
    assert cells == [2] * 7 + [8] * 3 + [5] * 10
    console = Console(width=100, record=True, file=io.StringIO())
    show(answered, console)
    assert "\x1b" not in console.export_text()
    markup = re.sub(r"\\.", "", page)
    assert "<" not in markup
    assert "](" not in markup


def test_three_texts_are_shown_that_say_what_a_low_a_middling_and_a_high_score_look_like():
    """By hand: of eight prompts in the order of the steered texts' scores, the second, the fifth and the seventh; ties as they come."""
    scores = [2.0, 0.0, 1.0, 2.0, 0.0, 1.0, 1.5, None]
    steered = ratings("feature", 3, "7", "1", scores).with_columns(prompt="prefix_id", text=pl.format(" s{}", "prefix_id"))
    plain = unsteered().with_columns(prompt="prefix_id", text=pl.format(" u{}", "prefix_id"))
    answered = answered_by(steered, plain, CANDIDATE | {"layer": 3, "feature": 7})
    lines = gist(answered)
    assert gist(replace(answered, is_reply=True))[-2] == "- steered (score 2.00: concept 2, fluency 2): p0\n sp0"
    at = next(place for place, line in enumerate(lines) if line.startswith("Texts of 3 prompts"))
    assert lines[at + 1 :] == [
        "- unsteered (score 0.00: concept 0, fluency 2): p1 up1", "- steered (score 0.00: concept 0, fluency 2): p1 sp1",
        "- unsteered (score 0.00: concept 0, fluency 2): p5 up5", "- steered (score 1.00: concept 1, fluency 2): p5 sp5",
        "- unsteered (score 0.25: concept 0.25, fluency 2): p0 up0", "- steered (score 2.00: concept 2, fluency 2): p0 sp0",
        "Try it: saesteer steer tiny 3/7 p5 --factor 1",
    ]  # fmt: skip
    of_list = [rows.with_columns(prompt=pl.format("- {}", "prefix_id")) for rows in (steered, plain)]
    assert gist(answered_by(*of_list, CANDIDATE | {"layer": 3, "feature": 7}))[-1] == "Try it: saesteer steer tiny 3/7 --factor 1 -- '- p5'"


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


def test_a_comparison_that_measures_texts_in_another_way_is_refused():
    tiny, methods = as_sweep(WORKFLOW, "tiny"), open_run("tiny-methods", WORKFLOW)
    question, experiment = request(comparison="tiny-methods"), methods.comparison
    assert with_concept_and_another(tiny, methods, question) == {"topics": ["sea", "anger"]}
    in_bfloat16 = {"model": experiment.model.model_copy(update={"dtype": "bfloat16"})}
    judge = {"judge": EmbeddingJudge(kind="embedding", model=ModelSource(path=Path("embedder")))}
    for section, changes in {"model": in_bfloat16, "perplexity": {"perplexity": PerplexitySettings(**in_bfloat16)}, "judge": judge}.items():
        other = replace(methods, experiment=experiment.model_copy(update=changes))
        with pytest.raises(SettingsError, match=f"tiny-methods has another {section} than tiny, so their texts cannot be compared"):
            with_concept_and_another(tiny, other, question)
    other = replace(methods, experiment=experiment.model_copy(update=judge))
    assert with_concept_and_another(tiny, other, replace(question, words=("boat",)))


def test_rivals_are_sampled_as_the_features_are_and_vectors_from_a_file_are_left_out():
    tiny, settings = as_sweep(WORKFLOW, "tiny").sweep, open_run("tiny-methods", WORKFLOW).comparison.methods
    given = settings.model_dump() | {"methods": ["diffmean", "from_file"], "vectors": "vectors.safetensors"}
    values = of_rivals(tiny, request(comparison="tiny-methods"), {"topics": ["sea", "anger"]}, Path("prompts.txt"), 30)["methods"]
    rivals = MethodSettings.model_validate(given | values | {"concepts": given["concepts"]})
    drawn = ("max_new_tokens", "temperature", "top_k", "top_p", "stop")
    assert [getattr(rivals, name) for name in drawn] == [getattr(tiny.sampling, name) for name in drawn]
    assert settings.temperature != tiny.sampling.temperature
    assert (rivals.vectors, rivals.seed) == (None, settings.seed)


def test_only_a_sweep_of_additions_recommends(tmp_path: Path):
    (tmp_path / "clamped.yaml").write_text(yaml.safe_dump({"extends": "tiny", "sweep": {"edit": "clamp"}}))
    folders = WORKFLOW.model_copy(update={"experiments_dirs": (tmp_path, *WORKFLOW.experiments_dirs)})
    with pytest.raises(SettingsError, match=r"clamped edits features by clamp \(sweep.edit\); recommend adds them: name a sweep"):
        as_sweep(folders, "clamped")


def test_a_rival_that_is_better_and_steers_well_is_to_be_used_instead():
    """A prompt has no layer, a vector has."""
    rivals = [ratings("prompting", 3, "prompting", "2", [2.0, 1.75] * 4), ratings("diffmean", 6, "diffmean", "1.5", [0.25, 0.5] * 4)]
    rated = pl.concat([ratings("feature", 3, "7", "1", [1.0] * 8), *rivals])
    _, prompt, vector = sentences_of(recommended(rated))
    assert prompt.startswith("prompting at factor 2: judge score 1.88 [")
    assert prompt.endswith("(n = 8)): use it instead.")
    assert vector.startswith("diffmean at layer 6, factor 1.5: judge score 0.38 [")
    assert "; worse than the feature (-0.6" in vector


@pytest.mark.parametrize(
    ("multiple", "advice"), [(3.0, ": use it instead."), (5.0, ". Not met: perplexity of its texts within the limit.")]
)
def test_a_rival_that_breaks_its_texts_is_not_to_be_used_instead(multiple: float, advice: str):
    prompting = with_loss(ratings("prompting", 3, "prompting", "2", [2.0, 1.75] * 4), 1 + math.log(multiple))
    prompt = sentences_of(recommended(pl.concat([ratings("feature", 3, "7", "1", [1.0] * 8), prompting])))[1]
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
    rated = rated_by_words(pl.DataFrame(rows), "hot dog", (), 4.0)[1:]
    for column, values in zip(("concept_rating", "fluency_rating", "judge_score"), expected, strict=True):
        assert rated[column].to_list() == pytest.approx(list(values)), column
    unmeasured = rated_by_words(pl.DataFrame(rows | {"mean_nll": [None, *losses]}), "hot dog", (), 4.0)
    assert unmeasured["fluency_rating"].to_list() == [None] * 8


def test_texts_are_rated_by_words_that_are_named_instead():
    """By hand: two different ones for a rating of 2; a phrase, a plural, another case; of one word alone that one."""
    texts = ["so", "A boat at tide", "boats, Boat", "an anchored boathouse", "the Card Games", "tide card game", ""]
    rows = pl.DataFrame({"kind": "feature", "factor": ["0", *["1"] * 6], "text": texts, "mean_nll": [2.0] * 7})
    named = rated_by_words(rows, "ocean", ("boat", "TIDE", "card game"), 4.0)
    assert named["concept_rating"].to_list() == [0, 2, 1, 0, 1, 2, None]
    for alone in (("tide",), ("tide", "Tide", "tides")):
        assert rated_by_words(rows, "ocean", alone, 4.0)["concept_rating"].to_list()[1] == 2
    signs = rows[:5].with_columns(text=pl.Series(["so", "AT&T in C++", "the U.S. market", "at a T", "C"]))
    assert rated_by_words(signs, "firms", ("AT&T", "C++", "U.S."), 4.0)["concept_rating"].to_list() == [0, 2, 1, 0, 1]
    assert rated_by_words(signs, "AT&T", (), 4.0)["concept_rating"].to_list() == [0, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("concept", "words", "said"),
    [
        ("", (), "the concept '' has no word"),
        (" \n", (), "has no word: name it by a word, or a phrase of at most 100 characters"),
        ("?!", (), "has no word"),
        ("__", (), "has no word"),
        ("sea " * 125, (), "the concept 'sea sea sea sea sea ' has 500 characters"),
        ("sea", ("boat", ""), "--words has an empty word"),
        ("sea", ("boat", "_"), "--words has an empty word"),
    ],
)
def test_what_is_no_concept_is_refused_in_a_sentence(concept: str, words: tuple[str, ...], said: str):
    with pytest.raises(SettingsError, match=re.escape(said)):
        request(concept, words=words)


def test_an_answer_by_words_says_so():
    rated = ratings("feature", 6, "8", "2", [2.0] * 8).with_columns(prompt=pl.lit("I"), text=pl.lit(" see"))
    plain = rated.with_columns(factor=pl.lit("0"), judge_score=pl.lit(0.0))
    answered = answered_by(rated, plain, CANDIDATE | {"layer": 6, "feature": 8, "fires_on": "sea"}, words=("boat", "tide"))
    for said in ("\n".join(gist(answered)), page_of(answered)):
        assert "Rated by words, not by a judge: counted are the words boat, tide," in said
        assert "score by words 2.00 [" in said
        assert "judge score" not in said


def test_a_terminal_gets_a_few_lines_and_a_table_in_plain_text():
    """By hand: of ten candidates the best eight by their mean scores, an unrated one last; lens tokens as words."""
    rated = [
        ratings("feature", 6, str(feature), "2", [feature / 4] * 8).with_columns(prompt=pl.lit("I"), text=pl.lit(" see"))
        for feature in range(9)
    ]
    rivals = [
        ratings(kind, 6, kind, "1", [1.0] * 8).with_columns(prompt=pl.lit("I"), text=pl.lit(" say")) for kind in ("prompting", "diffmean")
    ]
    plain = rated[0].with_columns(name=pl.lit("8"), factor=pl.lit("0"), judge_score=pl.lit(0.0))
    known = CANDIDATE | {"concept": "sea", "top_logit_lens_tokens": ["▁ship", "▁", "▁stethoscope"], "output_score": None}
    picked = [known | {"layer": 6, "feature": feature} for feature in range(10)]
    answered = answered_by(pl.concat([*rated, *rivals]), plain, *picked)
    lines = gist(answered)
    assert len(lines) == 15
    assert lines[0] == "tiny: sea"
    assert lines[1].startswith("Use feature 6/8 at factor 2: judge score 2.00")
    assert lines[-2:] == ["- steered (score 2.00: concept 2, fluency 2): I see", "Try it: saesteer steer tiny 6/8 I --factor 2"]
    console = Console(width=60, record=True, file=io.StringIO())
    show(answered, console)
    shown_text = console.export_text()
    assert re.findall(r"^6/(\d) .* 2 *$", shown_text, re.MULTILINE) == list("87654321")
    assert "8 of 10 candidates" in shown_text
    assert shown_text.count("stethoscope") == 8, "no word is cut at 60 columns"
    assert not re.search(r"[▁#*]|\| ", shown_text)
