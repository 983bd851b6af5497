"""Which features are tried for a concept, by what is known of them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from engine_models import shipped_model, tiny_model
from polars.testing import assert_frame_equal
from test_recommendation import WORKFLOW
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast
from workflow_folder import Folder

from saesteer.analysis.candidates import candidates, lens_words, similarities
from saesteer.analysis.recommendation import controls
from saesteer.analysis.words_at_maxima import fired_on, words_at_maxima
from saesteer.core.errors import SettingsError
from saesteer.engine.activations import word_cosines
from saesteer.engine.models import language_model
from saesteer.recommendations.answer import as_sweep
from saesteer.recommendations.candidates import _with_similarities, picked_features, steered_with
from saesteer.recommendations.question import RecommendRequest, check_concept
from saesteer.run import Run, open_run
from saesteer.settings import NoJudge, RecommendationSettings
from saesteer.steps.features import FEATURES
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.step import steps_of
from saesteer.summaries.features import described_features
from saesteer.workflow.plan import complete_manifest


def features_of(n: int, **columns: Any) -> pl.DataFrame:
    """What is known of so many features of layer 3, by default nothing."""
    known = {"layer": 3, "feature": range(n), "concept": None, "explanation": None, "fires_on": None, "near": False}
    known |= {"top_logit_lens_tokens": [["▁a"]] * n, "max_activation": [1.0] * n}
    return pl.DataFrame(known | columns, strict=False).cast(dict.fromkeys(("concept", "explanation", "fires_on"), pl.String))


def test_candidates_match_by_label_before_explanation_before_lens_and_then_by_their_largest_example():
    features = features_of(
        7,
        layer=[3, 3, 3, 3, 3, 6, 6],
        feature=[1, 2, 3, 4, 5, 1, 2],
        concept=["sea", "Sea", None, None, "tea", None, "sea"],
        explanation=[None, None, "ships at sea", None, "tea season", "The Seas; C++", None],
        top_logit_lens_tokens=[["▁a"], ["▁sea"], ["b"], ["▁Sea", "x"], ["c"], ["d"], ["e"]],
        max_activation=[1.0, 5.0, 9.0, 9.0, 9.0, 2.0, None],
        fires_on=[None, "tea", None, None, "seas", None, None],
    )
    assert candidates(features, "sea", 3).rows() == [(3, 2, "label"), (3, 1, "label"), (3, 3, "explanation"), (6, 1, "explanation")]
    assert candidates(features, "sea", 9).rows()[3:5] == [(3, 5, "examples"), (3, 4, "lens")]
    searched = candidates(features.with_columns(near=pl.col("feature") == 4), "sea", 9)
    assert searched.rows()[3:5] == [(3, 4, "search"), (3, 5, "examples")]
    assert candidates(features, "c++", 3).rows() == [(6, 1, "explanation")]
    assert candidates(features, "opera", 3).is_empty()


def test_a_lens_token_may_be_the_beginning_of_the_word():
    """Half of it at least, and at the beginning of a word."""
    lens = [["▁me"], ["▁medi"], ["medi"], [" medic", "x"], ["▁medicine"], ["▁medicines"]]
    features = features_of(6, top_logit_lens_tokens=lens)
    beginning = "lens, beginning"
    assert candidates(features, "medicine", 9).rows() == [(3, 4, "lens"), (3, 1, beginning), (3, 3, beginning)]


def test_directions_need_no_label_and_take_turns_with_what_shows_the_word():
    cosines = [0.1, 0.9, -0.5, 0.8, None, 0.7]
    columns = {"concept": [None, None, None, None, "sea", None], "fires_on": ["sea", None, "sea", "sea", None, None], "cosine": cosines}
    features = features_of(6, **columns, max_activation=[9.0, 1.0, 8.0, 1.0, 1.0, 1.0])
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
    assert fired_on(words_at_maxima(examples)).rows() == [(3, 1, "dogs"), (3, 2, "don't"), (3, 4, ".")]


def test_a_concept_that_nothing_points_to_is_refused_with_the_nearest_label(monkeypatch: pytest.MonkeyPatch):
    features = features_of(2, concept=["medicine", "sea\x1b[2J"]).drop("fires_on", "near")
    monkeypatch.setattr(Run, "summary_path", lambda *_: Path("config"))
    monkeypatch.setattr(Run, "summary", lambda *_: features)
    monkeypatch.setattr(Run, "rows", lambda *_: features.with_columns(examples=pl.Series([[example(["▁c"], 0)]] * 2)))
    tiny = as_sweep(WORKFLOW, "tiny")
    with pytest.raises(SettingsError, match=r"promotes 'medecine' or words like it\. Did you mean 'medicine'\? Labels are .*sea\ufffd"):
        picked_features(tiny, RecommendRequest("tiny", "medecine", 4, 1, Path("config.yaml"), None))


def test_similar_words_pick_where_texts_are_compared_by_embeddings():
    """By hand: a mean over examples, and one over lens tokens; what is labelled comes first, and the control is from the other half."""
    cosines = {"ship": 0.75, "hall": 0.25, "tide": 0.5, "a": 0.0}
    lens = [["▁a"], ["▁tide", "Ġa"], ["▁Tide"], ["▁a"], ["▁ocean"], ["▁a"]]
    columns = {"concept": [None, None, None, "ocean", None, None], "max_activation": [1.0, 2.0, 2.0, 1.0, None, None]}
    features = features_of(6, top_logit_lens_tokens=lens, **columns)
    maxima = pl.DataFrame({"layer": 3, "feature": [1, 1, 2], "word": ["ship", "hall", "hall"], "len": [3, 1, 2]})

    def similar_to(words: Sequence[str]) -> list[float]:
        return [cosines.get(word, 1.0) for word in words]

    of_tokens = similarities([lens_words(features)], similar_to)
    assert of_tokens.sort("feature").rows() == [(3, 0, 0.0), (3, 1, 0.25), (3, 2, 0.5), (3, 3, 0.0), (3, 4, 1.0), (3, 5, 0.0)]
    found = similarities([maxima, lens_words(features)], similar_to)
    assert found.sort("feature").rows() == [(3, 0, 0.0), (3, 1, 0.625 + 0.25), (3, 2, 0.25 + 0.5), (3, 3, 0.0), (3, 4, 1.0), (3, 5, 0.0)]
    similar = features.join(found, on=["layer", "feature"])
    assert candidates(similar, "ocean", 9).rows() == [(3, 3, "label"), (3, 1, "embedding"), (3, 2, "embedding")]
    picked = similar.filter(pl.col("feature") == 1).select("layer", "feature", "max_activation")
    assert controls(similar, picked, "ocean").rows() == [(3, 0)]
    listed = candidates(features, "ocean", 9, ["TIDE"])
    assert [match for *_, match in listed.rows()] == ["label", "lens", "lens"]


def test_what_a_feature_writes_counts_and_what_it_fires_on_only_to_have_less_of_a_concept():
    features = features_of(2, top_logit_lens_tokens=[["▁ship"], ["▁a"]])
    maxima = pl.DataFrame({"layer": 3, "feature": [0, 1], "word": ["a", "ship"], "len": 2})
    more = RecommendRequest("tiny", "sea", 4, 1, Path("config.yaml"), None)
    for question, expected in ((more, [1.0, 0.0]), (replace(more, less=True), [1.0, 1.0])):
        similar = _with_similarities(features, maxima, question, lambda words: [float(word == "ship") for word in words])
        assert similar.sort("feature")["similarity"].to_list() == expected


def test_of_the_candidates_the_most_similar_or_those_of_high_output_score_are_steered_with():
    known = pl.DataFrame({"layer": [2, 2, 6, 6], "feature": [1, 2, 3, 4], "output_score": [0.5, None, 0.1, 0.9]})
    settings = RecommendationSettings(n_candidates=3)
    assert steered_with(known, RecommendationSettings())["feature"].to_list() == [1, 2, 3, 4]
    assert steered_with(known, settings)["feature"].to_list() == [4, 1, 3]
    assert steered_with(known.with_columns(output_score=pl.lit(None, pl.Float64)), settings)["feature"].to_list() == [1, 3, 2]
    assert steered_with(known.with_columns(similarity=pl.Series([0.1, 0.3, 0.2, 0.2])), settings)["feature"].to_list() == [2, 3, 4]


def test_words_are_compared_without_the_space_that_a_tokenizer_puts_before_a_text():
    """Otherwise all words of Llama 2's kind share a token, and are alike."""
    words, lm = ["ship", "chess", "king"], tiny_model("llama")
    pieces = ["<unk>", "▁", "▁▁", *sorted(set("sea" + "".join(words))), *(f"▁{word}" for word in ("sea", *words))]
    spaces = normalizers.Replace(" ", "▁")
    cosines = []
    for normalizer in (spaces, normalizers.Sequence([normalizers.Prepend("▁"), spaces])):
        tokenizer = Tokenizer(models.Unigram([(piece, -1.0 if len(piece) > 1 else -5.0) for piece in pieces], unk_id=0))
        tokenizer.normalizer = normalizer
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<unk>", eos_token="<unk>")
        cosines.append(word_cosines(language_model(lm.model, fast), ["sea"], words))
    assert cosines[0] == cosines[1]
    assert max(cosines[0]) < 0.9


def test_a_word_that_nothing_points_to_has_the_candidates_of_words_like_it(
    finished: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By the embeddings of the model itself: harbours are like bays, not like chess; letters that are no word are like nothing."""
    words = ["bay", "harbour", "chess", ""]
    bay, harbour, chess, nothing = word_cosines(shipped_model(), ["harbour"], words)
    assert harbour == pytest.approx(1)
    assert bay > 0.5 > max(chess, nothing)
    monkeypatch.chdir(finished.copy(tmp_path / "micro").path)
    before = open_run("micro", WORKFLOW)
    run = replace(before, experiment=before.experiment.model_copy(update={"judge": NoJudge(kind="none")}))
    question = RecommendRequest("micro", "tenor", 4, 1, Path("config.yaml"), None)
    picked = picked_features(run, question)
    assert picked["match"].unique().to_list() == ["embedding"]
    with pytest.raises(SettingsError, match="promotes 'zeppelin' or words like it"):
        picked_features(run, replace(question, concept="zeppelin"))


@pytest.mark.parametrize(
    ("concept", "nearest"), [("ocean", "mostly about 'sea'"), ("happiness", "about 'joy'"), ("medecine", "mean 'medicine'?")]
)
def test_a_judge_of_topics_refuses_other_words_and_lists_the_nearest_first(concept: str, nearest: str):
    tiny = as_sweep(WORKFLOW, "tiny")
    with pytest.raises(SettingsError, match=nearest) as refused:
        check_concept(tiny, RecommendRequest("tiny", concept, 4, 1, Path("config.yaml"), None))
    assert ("Topics are sea, " in str(refused.value)) == (concept == "ocean")
    check_concept(tiny, RecommendRequest("tiny", "sea", 4, 1, Path("config.yaml"), None))
    check_concept(tiny, RecommendRequest("tiny", concept, 4, 1, Path("config.yaml"), None, words=("boat",)))


@pytest.mark.exhaustive
def test_candidates_are_of_every_feature_where_their_examples_are(finished: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(finished.copy(tmp_path / "micro").path)
    before = open_run("micro", WORKFLOW)
    chosen, local = before.summary(FEATURES), before.experiment.max_activating_examples
    experiment = before.experiment.model_copy(update={"max_activating_examples": local.model_copy(update={"every_feature": True})})
    run = Run(before.workflow, "micro", experiment)
    for name in ("max_activating_examples", "logit_lens", "concepts", "input_score", "output_score"):
        for manifest, layers in zip(run.manifests(name), run.groups(name).values(), strict=True):
            complete_manifest(run, manifest, layers, partial(steps_of(experiment)[name].compute, run))
    assert run.rows(MAX_ACTIVATING_EXAMPLES).height == run.rows(LOGIT_LENS).height == 2 * 1024
    assert_frame_equal(described_features(run, run.layers)[FEATURES.name], chosen, check_row_order=False)
    question = RecommendRequest("micro", "storm", 4, 1, Path("config.yaml"), None)
    few, picked = (picked_features(of, question) for of in (before, run))
    assert few.join(chosen, on=FEATURES.keys, how="anti").is_empty()
    others = picked.join(chosen, on=FEATURES.keys, how="anti")
    assert others.height >= 4
    assert others["input_score"].null_count() == others["output_score"].null_count() == others.height
    assert others["max_activation"].null_count() == 0
    assert picked.columns == few.columns
    limited = experiment.model_copy(update={"recommendation": RecommendationSettings(n_candidates=2)})
    heights = [picked_features(Run(before.workflow, "micro", limited), replace(question, n_per_layer=n)).height for n in (None, 1, 4)]
    assert heights == [2, picked.filter(pl.int_range(pl.len()).over("layer") < 1).height, picked.height]
