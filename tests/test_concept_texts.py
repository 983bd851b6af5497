"""Training texts: what the grammar's own judge says of them, and their tokens."""

import json
from collections import Counter
from functools import cache

import polars as pl
import pytest
import torch
from engine_models import WORDS, WORLD, shipped_model, tiny_model, without_bos
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from test_prompts import chat_model

from saesteer.core.files import text_id
from saesteer.core.tokens import load_tokens
from saesteer.engine.hook_points import hook_point_of
from saesteer.engine.models import prompt_token_ids
from saesteer.engine.perplexity import continuation_nll
from saesteer.methods.fit.problem import TrainingText, tokens
from saesteer.methods.fit.tokenised import n_prefix_tokens, training_texts
from saesteer.methods.fit.training import token_losses
from saesteer.settings import SettingsError
from saesteer.sources.concept_tables import CONCEPT_TEXTS
from saesteer.world.concept_texts import topic_texts
from saesteer.world.lexicon import CLAUSE_LISTS, Lexicon, Topic, load_lexicon
from saesteer.world.oracle_judge import load_oracle
from studies.world.oracle import classify_sentence

OPENERS = ("On the other hand,", "Something tells me that", "One thing is certain:")


@cache
def world() -> Lexicon:
    return load_lexicon(WORLD / "lexicon.yaml", WORLD.parents[1] / "config" / "prefixes.txt")


def toy(*names: str, n_words: int = 5) -> Lexicon:
    """Topics whose every content word bears their name."""
    lists = {name: {key: tuple(f"{name}{key}{i}" for i in range(n_words)) for key in CLAUSE_LISTS} for name in names}
    return Lexicon(tuple(Topic(name, lists[name]) for name in names), ("From here",))


FOUR = toy("sea", "chess", "law", "joy")


def texts_of(topic: str, lexicon: Lexicon, n_positive: int, n_negative: int, seed: int = 0, topics: tuple[str, ...] = ()) -> pl.DataFrame:
    """One topic's texts, asked for together with others."""
    _, texts = topic_texts(lexicon, topics or (topic,), OPENERS, n_positive, n_negative, seed)
    return texts.filter(concept_id=text_id(topic))


def first(texts: pl.DataFrame, n_positive: int, n_negative: int) -> pl.DataFrame:
    return texts.filter(pl.col("number") < pl.when("positive").then(n_positive).otherwise(n_negative))


def test_the_worlds_judge_knows_every_positive_text_by_its_topic_and_no_negative_one():
    concepts, texts = topic_texts(world(), world().names, OPENERS, 12, 12, 0)
    assert concepts["concept"].to_list() == world().names == json.loads((WORLD / "topics.json").read_text())
    assert concepts["label_feature"].null_count() == len(concepts)
    oracle, reader = load_oracle(WORLD / "oracle"), load_tokens(WORLD / "model")
    predicted = [int(classify_sentence(oracle, ids).argmax()) for ids in reader.retokenise(texts["output"].to_list())]
    topic = texts["concept_id"].replace_strict({text_id(name): number for number, name in enumerate(world().names)})
    agrees = (topic == pl.Series(predicted)) == texts["positive"]
    assert len(texts) == 32 * 24
    assert agrees.mean() > 0.995


def test_texts_go_on_from_the_given_openers_as_the_corpus_does():
    _, texts = topic_texts(world(), ("weather", "french", "code"), OPENERS, 60, 60, 0)
    assert set(texts["input"]) == set(OPENERS)
    assert not any(opener in text for text in texts["output"] for opener in world().openers)
    assert all(text[0].islower() and text.endswith(".") and " ." not in text and " ," not in text for text in texts["output"])
    shipped = shipped_model().tokenizer.get_vocab()
    assert all(f"▁{text.split()[0].strip(',.:')}" in shipped for text in texts["output"])


def test_negative_texts_are_of_all_other_topics_evenly():
    texts = texts_of("sea", FOUR, 0, 31)
    named = Counter(next(name for name in FOUR.names if name in text) for text in texts["output"])
    assert set(named) == {"chess", "law", "joy"}
    assert max(named.values()) - min(named.values()) <= 1
    order = [next(name for name in FOUR.names if name in text) for text in texts["output"]]
    assert len({tuple(order[start : start + 3]) for start in range(0, 30, 3)}) > 1
    assert all(set(order[start : start + 3]) == set(named) for start in range(0, 30, 3))
    assert all("sea" in text for text in texts_of("sea", FOUR, 31, 0)["output"])


@settings(max_examples=25)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 3))
def test_fewer_texts_are_the_first_of_more(few: int, more: int, few_negative: int, more_negative: int, seed: int):
    whole = texts_of("law", FOUR, few + more, few_negative + more_negative, seed)
    assert_frame_equal(first(whole, few, few_negative), texts_of("law", FOUR, few, few_negative, seed))


@settings(max_examples=25)
@given(st.permutations(FOUR.names), st.integers(1, 4), st.integers(0, 3))
def test_a_topics_texts_do_not_depend_on_the_others_asked_for(names: list[str], n_topics: int, seed: int):
    together = tuple(names[:n_topics])
    for name in together:
        assert_frame_equal(texts_of(name, FOUR, 7, 8, seed, together), texts_of(name, FOUR, 7, 8, seed))


def test_seeds_topics_and_sides_draw_apart_and_a_topic_added_to_the_grammar_leaves_positive_texts():
    assert_frame_equal(texts_of("law", toy("new", *FOUR.names), 9, 0), texts_of("law", FOUR, 9, 0))
    lexicon = toy("a", "b")  # the negative texts of one are sentences of the other
    for one, other in ((("a", 0, True), ("a", 1, True)), (("a", 0, True), ("b", 0, False)), (("a", 0, False), ("a", 1, False))):
        drawn = [
            texts_of(topic, lexicon, 9, 9, seed).filter(positive=positive)["output"].to_list() for topic, seed, positive in (one, other)
        ]
        assert drawn[0] != drawn[1]


POSITIVE = ("One thing is certain:", "the seathings4 was seaadjectives0.")
NEGATIVE = ("One thing is certain:", "a chessthings0 and the chessthings1 were chessadjectives1.")


def test_the_same_texts_wherever_they_are_drawn():
    assert texts_of("sea", FOUR, 1, 1).rows() == [(text_id("sea"), True, 0, *POSITIVE), (text_id("sea"), False, 0, *NEGATIVE)]


def test_no_sentence_twice_and_a_topic_that_has_no_more(monkeypatch: pytest.MonkeyPatch):
    texts = texts_of("numbers", world(), 200, 200)
    assert texts.group_by("positive").agg(pl.col("output").n_unique())["output"].to_list() == [200, 200]
    monkeypatch.setattr("saesteer.world.concept_texts.MOST_DRAWS", 2)
    with pytest.raises(SettingsError, match=r"'a': after \d+ texts the grammar has no new sentence of topic 'a'.*methods\.n_positive"):
        texts_of("a", toy("a", "b", n_words=1), 5000, 0)


def test_what_the_grammar_cannot_write_is_refused():
    with pytest.raises(SettingsError, match="no topic .* 'wether' here. Did you mean 'weather'"):
        topic_texts(world(), ["sea", "wether"], OPENERS, 2, 2, 0)
    with pytest.raises(SettingsError, match="no neutral opener is left"):
        topic_texts(world(), ["sea"], (), 2, 2, 0)


# What a model reads.

CHAT = (
    "{{ bos_token }}{% for turn in messages %}<start_of_turn>{{ turn.content }}<end_of_turn>{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>{% endif %}"
)


def rows_of(pairs: list[tuple[str, str]], positive: bool = True) -> pl.DataFrame:
    rows = [("0" * 16, positive, number, before, output) for number, (before, output) in enumerate(pairs)]
    return pl.DataFrame(rows, schema=CONCEPT_TEXTS.schema, orient="row")


def test_the_shipped_models_context_is_the_prompt_and_the_rest_is_the_text():
    _, texts = topic_texts(world(), ["french"], world().openers, 40, 40, 0)
    lm = shipped_model()
    for positive, tokenised in zip((True, False), training_texts(texts.sample(fraction=1, shuffle=True, seed=0), lm), strict=True):
        rows = texts.filter(positive=positive).sort("number")
        assert len(tokenised) == 40
        for text, before, output in zip(tokenised, rows["input"], rows["output"], strict=True):
            assert text.ids[: text.n_context] == prompt_token_ids(lm, before)
            assert lm.tokenizer.decode(text.ids[text.n_context :]).strip() == output


@settings(max_examples=60)
@given(st.lists(st.sampled_from([*WORDS[:20], " ", ".", "!"]), max_size=6), st.lists(st.sampled_from(WORDS), min_size=2, max_size=6))
def test_context_ends_where_the_tokens_texts_add_up_to_the_input(before: list[str], output: list[str]):
    for lm, n_bos in ((tiny_model("gpt2"), 1), (without_bos(tiny_model("gpt2")), 0)):
        (text,), _ = training_texts(rows_of([("".join(before), " ".join(output))]), lm)
        pieces = lm.tokenizer.convert_ids_to_tokens(text.ids)[n_bos:]
        assert "".join(pieces) == ("".join(before) + " " if before else "") + " ".join(output)
        ends = [len("".join(pieces[: place + 1])) for place in range(len(pieces))]
        assert text.n_context == max(1, n_bos + sum(end <= len("".join(before)) for end in ends))


def test_a_chat_models_text_is_its_templates_conversation_up_to_the_end_of_the_answer():
    lm = chat_model(CHAT)
    pairs = [("ba be", "di do tuda."), ("", "ba"), ("ba", " be\nbo")]
    positive, _ = training_texts(rows_of(pairs), lm)
    for text, (before, output) in zip(positive, pairs, strict=True):
        turns = [{"role": "user", "content": before}, {"role": "assistant", "content": output}]
        written = lm.tokenizer.apply_chat_template(turns, tokenize=False)
        end = written.rindex(output) + len(output)
        assert text.ids == lm.tokenizer(written[:end], add_special_tokens=False)["input_ids"]
        assert text.ids[: text.n_context] == prompt_token_ids(lm, before)


def test_texts_are_cut_at_the_models_end_and_after_128_tokens_of_output(monkeypatch: pytest.MonkeyPatch):
    pair = ("ba be bo", " ".join(["di"] * 400))
    for lm in (tiny_model("llama"), chat_model(CHAT)):
        n_context = len(prompt_token_ids(lm, pair[0]))
        (text,), _ = training_texts(rows_of([pair]), lm)
        assert (text.n_context, len(text.ids)) == (n_context, 64)
        with monkeypatch.context() as patched:
            patched.setattr(lm.model.config, "max_position_embeddings", 1000)
            (text,), _ = training_texts(rows_of([pair]), lm)
            assert (text.n_context, len(text.ids)) == (n_context, n_context + 128)
            ((shorter,), _) = training_texts(rows_of([pair]), lm, 24)
            assert shorter.ids == text.ids[: n_context + 24]


def test_texts_without_a_token_of_their_own_are_refused():
    lm = tiny_model("llama")
    with pytest.raises(ValueError, match=r"negative text 1 of concept_id 0+: no token of its output is left after the 71 of its input"):
        training_texts(rows_of([("ba", "be"), ("ba" * 10 + " ba" * 60, "be")], positive=False), lm)
    with pytest.raises(ValueError, match="positive text 0 .*give an output"):
        training_texts(rows_of([("ba", "")]), chat_model(CHAT))


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
def test_prompts_count_from_where_they_differ(prompt_format: str):
    """In a chat template's prompt, what stands before the user's words and is the same for all is left out; after them, all counts."""
    lm = chat_model(CHAT) if prompt_format == "chat" else shipped_model()
    inputs = ["ba be", "di do du", "do"] if prompt_format == "chat" else ["I think that", "Then we saw", ""]
    texts = rows_of([(before, "ba di do") if prompt_format == "chat" else (before, "the sea is calm") for before in inputs])
    positive, _ = training_texts(texts, lm)
    prompts = [prompt_token_ids(lm, before) for before in inputs]
    n_prefix = n_prefix_tokens(lm)
    assert len({tuple(ids[:n_prefix]) for ids in prompts}) == 1
    assert prompt_format == "plain" or len({tuple(ids[: n_prefix + 1]) for ids in prompts}) > 1
    hook_point = hook_point_of(lm, 1, "resid_post")
    said, every = tokens(lm, hook_point, positive), tokens(lm, hook_point, positive, n_prefix)
    for number, text in enumerate(positive):
        alone = tokens(lm, hook_point, (TrainingText(text.ids, n_prefix),)).residual
        assert len(alone) == len(text.ids) - n_prefix
        torch.testing.assert_close(every.by_text()[number], alone)
        torch.testing.assert_close(every.by_text()[number][text.n_context - n_prefix :], said.by_text()[number])


def test_losses_and_residuals_of_training_texts_count_what_perplexity_counts():
    lm = shipped_model()
    _, texts = topic_texts(world(), ["sea"], OPENERS, 5, 0, 0)
    positive, _ = training_texts(texts, lm)
    before = texts.select(row=pl.col("number"), prefix="input", text=pl.lit(" ") + pl.col("output"))
    losses = continuation_nll(lm, before)
    assert [len(text.ids) - text.n_context for text in positive] == losses["n_scored"].to_list()
    assert tokens(lm, hook_point_of(lm, 2, "resid_post"), positive).residual.shape == (losses["n_scored"].sum(), lm.d_model)
    for text, mean in zip(positive, losses["mean_nll"], strict=True):
        with torch.no_grad():
            assert float(token_losses(lm, [text]).mean()) == pytest.approx(mean, rel=1e-5)
