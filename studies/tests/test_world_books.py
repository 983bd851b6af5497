"""The world of the books at tiny sizes: rows, tokenizer, resumed training, judge, copies, labelled texts."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from saesteer.core.tokens import TextTokens
from saesteer.world.books import judge
from saesteer.world.books.judge import TextJudge
from saesteer.world.judges import load_judge
from studies.books import build, fit_judge, texts, train
from studies.books.paragraphs import packed_rows, read_paragraphs, sentences
from studies.books.tokenizer import learn_tokenizer
from studies.world import corpus, train_model
from studies.world.tokenizer import BOS_ID, PAD_ID
from studies.world.train_model import ModelRecipe
from studies.world.train_saes import SaeRecipe

PHRASES = ["The moon was full.", 'She said, "Go on!"', "Boil the peas in a pan.", "Salt them well.", "A star of 12.5 units rose."]
TOKENIZER = learn_tokenizer(PHRASES * 40, 32, 460)
RECIPE = ModelRecipe(n_layers=2, d_model=32, d_mlp=64, n_heads=2, n_kv_heads=1, head_dim=16, context=32, steps=8, batch=4, warm_up=2)
PLAIN = train.Speed(rows_at_once=2, compiled=False)


def test_sentences_end_before_a_capital_and_keep_their_quotes():
    assert sentences('It rose. "Go on!" she said. He saw 3.5 of it, e.g. the moon. (So he said.) No') == [
        "It rose.", '"Go on!" she said.', "He saw 3.5 of it, e.g. the moon.", "(So he said.)", "No",
    ]  # fmt: skip


def test_a_tokenizer_gives_every_text_back():
    for text in (*PHRASES, 'The cat’s naïve café — 12.5 "Quoted." End.', "  two  spaces", "日本"):
        assert TOKENIZER.decode(TOKENIZER(text)["input_ids"], skip_special_tokens=True) == text
    assert TOKENIZER("The moon")["input_ids"][0] == BOS_ID
    assert [piece for piece in TOKENIZER.get_vocab() if "." in piece] == ["."]


def test_rows_are_full_and_start_with_the_sentence_that_did_not_fit():
    book = [PHRASES[place % len(PHRASES)] for place in range(12)]
    rows = packed_rows(TOKENIZER, [book, ["Salt."]], 32)
    assert (rows[:, 0] == BOS_ID).all()
    assert not (rows[:-2] == PAD_ID).any()
    told = [TOKENIZER.decode(row[row != PAD_ID], skip_special_tokens=True) for row in rows]
    assert told[-1] == "Salt."
    seen = 0
    for text in told[:-1]:  # by hand: each row is the book's text from a sentence on
        assert " ".join(book[seen:]).startswith(text)
        whole = [count for count in range(1, len(book) - seen + 1) if " ".join(book[seen : seen + count]) in text]
        seen += max(whole)
    assert seen == len(book)


def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path: Path):
    rows = packed_rows(TOKENIZER, [PHRASES * 30], 32)

    def run(name: str, steps: int) -> tuple[dict[str, torch.Tensor], list[float]]:
        flat = replace(RECIPE, steps=steps, flat_until=1.0)
        model, losses = train.train_resumably(rows, len(TOKENIZER), flat, 0, "model", tmp_path / name, PLAIN)
        return model.state_dict(), losses

    run("halved", 5)
    resumed, losses = run("halved", 8)
    whole, whole_losses = run("whole", 8)
    assert losses == whole_losses
    assert losses[-1] < losses[0]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_every_row_is_seen_once_a_pass():
    steps = [train._rows_of_step(13, RECIPE, 0, "model", step) for step in range(6)]
    first, second = ({row for step in half for row in step} for half in (steps[:3], steps[3:]))
    assert len(first) == 12 == len(second)
    assert steps[0] != steps[3]


def test_the_ordinary_initialisation_writes_as_much_in_every_layer():
    model = train_model.new_model(replace(train.plain_model(), n_layers=2), 300, 0, "model")
    assert all(layer.post_attention_layernorm.weight.abs().max() == 0 for layer in model.model.layers)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)


def _judge() -> TextJudge:
    words = {"moon": 0, "the": 1, "tea": 2}
    return TextJudge(
        words, fit_judge.fit_classifier(["Moon, moon the", "tea TEA the x"], [0, 1], 2, words), 0.5, 0, (0.4, 0.6), (2.0, 4.0), 0.6
    )


def test_the_classifier_is_bayes_rule_by_hand():
    # "moon" and "tea" belong to a topic each, "the" to both; share = (counts + 1) / 9, smoothed = counts + 0.5 * 3 * share.
    share = np.array([3, 3, 3]) / 9
    counts = np.array([[2, 1, 0], [0, 1, 2]]) + 1.5 * share
    expected = counts / counts.sum(1, keepdims=True)
    fitted = _judge()
    assert np.allclose(fitted.log_likelihood, np.log(expected), atol=2e-3)
    odds = (expected[0, 0] / expected[1, 0]) ** 0.5
    (ids,) = judge.word_ids(fitted, ["The moon's unknown"])
    assert judge.topic_posterior(fitted, ids)[0] == pytest.approx(odds / (1 + odds), rel=1e-3)


def test_words_that_few_texts_have_are_not_counted():
    texts_of_two = ["the moon moon moon", *["the tea"] * 4, "The end"]
    assert fit_judge.known_words(texts_of_two) == {"the": 0}
    assert fit_judge.known_words([*texts_of_two, "tea!"]) == {"tea": 0, "the": 1}


def test_ratings_change_at_their_cuts_and_are_missing_where_nothing_is_to_be_rated():
    fitted = _judge()
    texts_of_four = judge.word_ids(fitted, ["moon moon", "the", "tea tea", "unknown"])
    assert [judge.concept_rating(fitted, ids, 0) for ids in texts_of_four] == [2, 0, 0, None]
    assert [judge.fluency_rating(fitted, [0, 1], nats) for nats in (1.0, 3.0, 5.0, math.nan, None)] == [2, 1, 0, None, None]
    # What is said over and over is expected: of 1, 3 and 7 pairs 1, 2 and 2 are distinct.
    assert [judge.fluency_rating(fitted, [0, 1] * n, 1.0) for n in (1, 2, 4)] == [2, 2, 0]
    assert judge.fluency_rating(fitted, [], 1.0) == 2
    with pytest.raises(ValueError, match="topic 2 is out of range"):
        judge.concept_rating(fitted, [0], 2)


def test_a_word_counts_once_and_those_that_speak_most_for_the_topic_do_not_count():
    likelihood = np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.4, 0.4]]))
    ratio = likelihood[0] - likelihood[1]  # of topic 0's words the first speaks most, the third least
    judges = [TextJudge({}, likelihood, 0.5, left_out, (0.3, 0.62), (2.0, 4.0), 0.6) for left_out in range(4)]
    for ids in ([0, 1, 2], [2, 0, 0, 1, 0]):
        expected = [0.5 * ratio[[0, 1, 2][n:]].sum() for n in range(4)]
        assert [judge.concept_log_odds(each, ids, 0) for each in judges] == pytest.approx(expected)
        assert judge.concept_log_odds(judges[1], ids, 1) == pytest.approx(-0.5 * ratio[[0, 1]].sum())
    assert judge.concept_log_odds(judges[0], [], 0) is None
    # P of word 0 is .63, of 0 and 1 .60, of 1 alone .46: no likelier than before the text was read, as of a text without words.
    assert [judge.concept_rating(judges[0], ids, 0) for ids in ([0], [0, 1, 0], [1], [2, 2])] == [2, 1, 0, 0]
    assert [judge.concept_rating(judges[1], ids, 0) for ids in ([0], [0, 0], [0, 1], [2])] == [0, 0, 0, 0]
    of_two = TextJudge({}, np.repeat(likelihood[:, :1], 2, axis=1), 0.5, 1, (0.3, 0.62), (2.0, 4.0), 0.6)
    assert [judge.concept_rating(of_two, ids, 0) for ids in ([0], [0, 1])] == [0, 2]


def test_a_stored_judge_rates_as_the_fitted_one(tmp_path: Path):
    fitted = _judge()
    fit_judge.save_text_judge(fitted, {"runs": 3}, tmp_path)
    loaded = judge.load_text_judge(tmp_path)
    assert np.array_equal(loaded.log_likelihood, fitted.log_likelihood)
    assert (loaded.words, loaded.sharpness, loaded.concept_cuts, loaded.fluency_nats) == (fitted.words, 0.5, (0.4, 0.6), (2.0, 4.0))
    either = load_judge(tmp_path, TextTokens(TOKENIZER.backend_tokenizer))
    on, off = either.read(["Moon moon", "tea and tea"])
    assert (either.concept(on, 0), either.concept(off, 0), either.fluency(on, 3.0), either.n_topics) == (2, 0, 1, 2)
    assert either.log_odds(on, 0) == pytest.approx(judge.concept_log_odds(fitted, on, 0))
    (tmp_path / "words.txt").write_text("moon\n")
    with pytest.raises(ValueError, match="do not belong together"):
        judge.load_text_judge(tmp_path)


def test_sharpness_of_words_that_come_twice_is_a_half():
    # Each word is drawn once and written twice, so that the log-likelihood of what was drawn is half the sum.
    rng = np.random.default_rng(0)
    likelihood = np.log(np.array([[0.6, 0.4], [0.4, 0.6]]))
    topics = rng.integers(2, size=4000)
    drawn = [" ".join(np.repeat(rng.choice(["moon", "tea"], 6, p=np.exp(likelihood[topic])), 2)) for topic in topics]
    runs = fit_judge.Runs((), (), tuple(drawn), tuple(topics.tolist()))
    doubled = TextJudge({"moon": 0, "tea": 1}, likelihood, 1.0, 0, (0.0, 0.0), (0.0, 0.0), 0.0)
    assert fit_judge.fit_sharpness(doubled, runs) == pytest.approx(0.5, abs=0.06)


def test_runs_start_with_a_sentence_and_come_from_every_topic():
    frame = pl.DataFrame(
        {"book": [1, 2], "topic": ["food", "sky"], "text": [" ".join(PHRASES[2:4] * 20), " ".join([PHRASES[0], PHRASES[4]] * 20)]}
    )
    drawn = fit_judge.runs(TOKENIZER, frame, ["food", "sky"], 20, 0, "test")
    assert drawn.topics == (0,) * 10 + (1,) * 10
    assert all(fit_judge.RUN[0] <= len(ids) <= fit_judge.RUN[1] for ids in drawn.ids)
    first = {TOKENIZER.decode(ids).strip().split()[0] for ids in drawn.ids}
    assert first <= {"Boil", "Salt", "The", "A"}
    assert drawn.texts[0] == TOKENIZER.decode(drawn.ids[0])
    words = {word: number for number, word in enumerate(["boil", "salt", "moon", "star"])}
    of_two = TextJudge(words, np.zeros((2, 4), dtype=np.float32), 1.0, 0, (0.0, 0.0), (0.0, 0.0), 0.0)
    items = fit_judge.concept_items(drawn, of_two, 0, "test")
    assert {item.rating: set(item.token_ids) <= {0, 1} for item in items if item.topic == 0} == {0: False, 1: False, 2: True}
    assert any(set(item.token_ids) & {0, 1} for item in items if item.topic == 0 and item.rating == 1)
    assert [item.rating for item in items[:6]] == [0, 1, 2, 0, 1, 2]


def test_texts_begin_with_words_that_tell_their_topic():
    words = {"moon": 0, "the": 1, "peas": 2, "zebra": 3}  # the last is not a token
    share = np.array([[0.4, 0.3, 0.1, 0.2], [0.05, 0.5, 0.4, 0.05]])
    of_two = TextJudge(words, np.log(share), 1.0, 0, (0.0, 0.0), (0.0, 0.0), 0.0)
    assert texts.telling_words(of_two, TOKENIZER) == [["moon", "the"], ["the", "peas"]]  # peas: a fifth of its uses on the first
    starts = [TOKENIZER.decode(ids) for ids in texts.topical_starts(of_two, TOKENIZER, 5)]
    assert starts == ["The moon", "The the", "The the", "The peas", "The moon"]


def test_texts_of_fluency_are_as_written_replaced_shuffled_or_loops():
    text = " ".join(PHRASES[2:4] * 2)
    ids = tuple(TOKENIZER(" " + text, add_special_tokens=False)["input_ids"])
    drawn = fit_judge.Runs(((BOS_ID,),) * 300, (ids,) * 300, (text,) * 299 + ("xyz",), (0,) * 300)
    made = fit_judge.fluency_items(drawn, TOKENIZER, 0, "test")
    assert [item.rating for item in made[:6]] == [0, 1, 2, 0, 1, 2]
    assert {item.continuation for item in made if item.rating == 2} == {ids}
    for item in made:
        words = TOKENIZER.decode(item.continuation).split()
        if item.loop:
            assert item.rating == 0
            assert len(item.continuation) == len(ids)
            loops = [item.continuation[start:] for start in (0, len(ids) // 2)]
            assert any(loop[n:] == loop[:-n] for loop in loops for n in range(1, fit_judge.LOOPED + 1))
        elif item.rating == 0:
            assert sorted(words) == sorted(text.split())
        elif item.rating == 1:
            assert sum(own != new for own, new in zip(text.split(), words, strict=True)) <= round(0.2 * len(words))
    assert sum(item.loop for item in made) == 50
    assert len({item.continuation for item in made if item.rating == 0}) > 50


def test_what_stands_in_a_book_is_a_copy():
    book = "One two three four five six seven eight nine ten, eleven twelve."
    copied, half, own = texts.copied_shares(
        ["one TWO three; four five six seven eight nine", "one two three four five six seven eight no", "a short text"], [book]
    )
    assert (copied, half, own) == (1.0, 0.5, 0.0)


def test_labelled_texts_carry_the_topic_the_judge_is_sure_of():
    moon, peas, mark = (TOKENIZER(text, add_special_tokens=False)["input_ids"] for text in ("Moon moon moon.", "Tea, tea, tea!", "12"))
    frame = texts.labelled_texts([moon, peas, moon, mark], TOKENIZER, replace(_judge(), sharpness=1.0))
    assert frame["text"].to_list() == ["Moon moon moon.", "Tea, tea, tea!", "12"]
    assert [topics[1] for topics in frame["token_topics"]] == [0, 1, texts.NO_TOPIC]
    for topics, ids in zip(frame["token_topics"], frame["token_ids"], strict=True):
        assert (topics[0], ids[0], len(topics)) == (texts.NO_TOPIC, BOS_ID, len(ids))


def test_book_texts_are_beginnings_of_paragraphs_with_their_books_topic():
    long, short = " ".join(PHRASES[2:4] * 9), PHRASES[0]
    frame = pl.DataFrame({"topic": ["food", "food", "sky", "sky"], "text": [long, short, short, "Stars. " + long]})
    made = texts.book_texts(frame, ["food", "sky"], TOKENIZER, 10, 40, 0)
    assert [row[-1] for row in made["token_topics"]] == [0, 1]
    for text, ids, beginning in zip(made["text"], made["token_ids"], (long, "Stars. " + long), strict=True):
        assert beginning.startswith(text)
        assert len(ids) == 41
        assert TOKENIZER(text)["input_ids"] == ids.to_list()


def test_first_sentences_go_on_from_their_opener_and_none_comes_twice():
    written = ["In the end, the moon was full of pale light. More", "In the end, it is.", "In the end, no stop at the end of the text"]
    drawn = list(texts.first_sentences(written, "In the end,", _judge()))
    assert [row[:2] for row in drawn] == [("In the end,", "the moon was full of pale light.")]
    assert drawn[0][2] == 0
    kept = texts.best_by_topic([*drawn, *drawn, ("So,", "x", 1, 0.9), ("So,", "y", 1, 0.8)], ["sky", "food"], 1)
    assert kept.rows() == [("sky", "In the end,", "the moon was full of pale light."), ("food", "So,", "x")]


def test_paragraphs_name_what_they_lack(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="PARAGRAPHS="):
        read_paragraphs(tmp_path / "none.parquet")
    pl.DataFrame({"book": [1], "text": ["x"]}).write_parquet(tmp_path / "few.parquet")
    with pytest.raises(ValueError, match="lacks topic, split, position"):
        read_paragraphs(tmp_path / "few.parquet")


def books_of_two_topics(path: Path) -> Path:
    """Paragraphs of the sky and of the kitchen: three books of a topic, one a split."""
    words = {"sky": ["moon", "star", "orbit", "comet"], "food": ["pan", "peas", "salt", "oven"]}
    rng = np.random.default_rng(0)
    rows = []
    for book, (topic, split) in enumerate((topic, split) for topic in words for split in ("train", "valid", "judge")):
        for position in range(12):
            said = [
                f"The {rng.choice(words[topic])} is near the {rng.choice(words[topic])} and the {rng.choice(words[topic])}."
                for _ in range(6)
            ]
            rows.append((book, topic, split, position, " ".join(said)))
    pl.DataFrame(rows, schema=["book", "topic", "split", "position", "text"], orient="row").write_parquet(path)
    return path


@pytest.mark.slow
def test_a_world_of_books_from_nothing_is_complete_and_goes_on_where_it_stopped(tmp_path: Path):
    recipe = build.BooksRecipe(
        model=replace(RECIPE, steps=60, learning_rate=1e-2),
        sae=SaeRecipe(d_sae=64, k=4, steps=20, batch=64),
        samples=texts.SampleRecipe(texts=60, tokens=31, batch=30),
        sentences=texts.SampleRecipe(texts=60, tokens=31, batch=30),
        sentences_a_topic=3,
        vocabulary=420,
        sae_rows=40,
        runs=24,
        speed=PLAIN,
    )
    folder, openers = tmp_path / "build", ("In the end,", "So")
    world = build.BooksBuild(folder, books_of_two_topics(tmp_path / "paragraphs.parquet"), openers, 0, recipe)
    metrics = build.build_books(world)
    assert metrics["language"]["valid_loss"] < math.log(420)
    assert metrics["language"]["tokens_seen"] == 60 * 4 * 31
    assert len(metrics["layers"]) == 2
    assert metrics["judge"]["measured"]["topic_accuracy"] == 1.0  # the topics share no word that tells
    assert metrics["texts"]["kept"] <= metrics["texts"]["as_read"] <= 60
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert build.build_books(world) == metrics
    assert {path: path.stat().st_mtime_ns for path in times} == times
    concepts = pl.read_parquet(folder / build.CONCEPT_TEXTS)
    assert set(concepts["opener"]) <= set(openers)
    assert concepts.columns == ["concept", "opener", "text"]
    provenance = tmp_path / "books.csv"
    provenance.write_text("book,split\n1,train\n2,valid\n3,judge\n4,train\n")
    build.adopt(folder, provenance, tmp_path / "shipped")
    card = (tmp_path / "shipped/README.md").read_text()
    assert "trained on 2 public-domain books\nin 2 topics" in card
    assert "{" not in card
    shipped = corpus.TEXTS_SCHEMA
    assert dict(pl.read_parquet(tmp_path / "shipped/texts.parquet").schema) == shipped
    with pytest.raises(FileNotFoundError, match="is not finished"):
        build.adopt(tmp_path / "nothing", provenance, tmp_path / "other")
