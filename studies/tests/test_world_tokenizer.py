"""The tokenizer: any text comes back but a special token's spelling, one token a word, and "." on its own."""

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.world import grammar
from saesteer.world.grammar import NO_TOPIC
from saesteer.world.lexicon import load_lexicon
from saesteer.world.streams import text_stream
from studies.world import corpus
from studies.world.tokenizer import BOS_ID, CONTEXT, EOS_ID, PAD_ID, SPACE, SPECIAL_TOKENS, build_tokenizer, vocabulary

ROOT = Path(__file__).resolve().parents[2]
LEXICON = load_lexicon(ROOT / "data/world/lexicon.yaml", ROOT / "config/prefixes.txt")
TOKENIZER = build_tokenizer(LEXICON)


def some_documents(n: int, name: str = "test/grammar") -> list[corpus.Document]:
    return list(itertools.islice(corpus.documents(LEXICON, text_stream(0, name)), n))


PLAIN_TEXTS = st.text(st.characters(exclude_characters=SPACE, exclude_categories=["Cs"]), max_size=80).filter(
    lambda text: not any(token in text for token in SPECIAL_TOKENS)
)


def test_special_tokens_come_first_and_bos_on_its_own_and_once():
    assert TOKENIZER.convert_ids_to_tokens(list(range(4))) == list(SPECIAL_TOKENS)
    ids = TOKENIZER("The sailor rowed.")["input_ids"]
    assert (ids[0], ids.count(BOS_ID), EOS_ID in ids) == (BOS_ID, 1, False)
    assert TOKENIZER(SPECIAL_TOKENS[EOS_ID])["input_ids"] == [BOS_ID, EOS_ID]


WORDS = st.sampled_from([*vocabulary(LEXICON)[0], " ", ".", ",", "été", "\n", "\t", "日本"])


@settings(deadline=None, max_examples=150)
@given(PLAIN_TEXTS | st.lists(WORDS, max_size=12).map("".join))
def test_any_text_comes_back(text: str):
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"], skip_special_tokens=True) == text


def test_one_token_a_word_inside_texts():
    docs = some_documents(300, "test/tokenizer")
    for doc, ids in zip(docs, corpus.word_ids(TOKENIZER, tuple(docs)), strict=True):
        tokens = TOKENIZER.convert_ids_to_tokens(ids[1:])
        assert [token.removeprefix(SPACE) for token in tokens] == list(doc.words)


def test_full_stop_is_in_no_other_token_and_a_lone_word_is_the_word_inside_a_text():
    assert [token for token in TOKENIZER.get_vocab() if "." in token] == ["."]
    # P1's program tokenises an example's token with its space again and takes the id after BOS.
    assert TOKENIZER(" sailor")["input_ids"][1] == TOKENIZER.convert_tokens_to_ids("▁sailor")


def test_a_word_missing_in_the_tokenizer_is_refused():
    sentence = grammar.Sentence(("The", "zyzzyva", "rowed", "."), (1, 1, 1, 1), 0.0)
    with pytest.raises(ValueError, match="zyzzyva"):
        corpus.word_ids(TOKENIZER, (corpus.Document((sentence,)),))


def test_training_rows_are_documents_with_bos_and_eos():
    rows = corpus.training_rows(LEXICON, TOKENIZER, 0, "test/rows", 64)
    docs = some_documents(64, "test/rows")
    assert rows.shape == (64, CONTEXT)
    for row, doc in zip(rows.tolist(), docs, strict=True):
        expected = [*TOKENIZER(doc.text)["input_ids"], EOS_ID]
        assert row == (expected + [PAD_ID] * CONTEXT)[:CONTEXT]


def test_labels_line_up_with_rows():
    docs = corpus.fitted_corpus(LEXICON, 0, "test/labels", 100).documents
    rows, topics = corpus.padded_rows(TOKENIZER, docs), corpus.labels(docs)
    sea = LEXICON.names.index("sea")
    word = TOKENIZER.convert_tokens_to_ids("▁sailor")
    assert (rows == word).any()
    assert (topics[rows == word] == sea).all()
    assert (topics[~corpus.is_content(rows)] == NO_TOPIC).all()
    assert len({doc.text for doc in docs}) == 100


def test_vocabulary_is_closed_and_without_idle_words():
    words, starts = vocabulary(LEXICON)
    docs = some_documents(1500, "test/vocabulary")
    seen = {word for d in docs for word in d.words}
    assert seen - set(words) == set(grammar.CLOSING)
    assert {d.words[0] for d in docs} <= set(starts)
    assert len(set(words) - seen) < 0.05 * len(words)


def test_topics_stay_and_leave_at_the_stated_rate():
    docs = some_documents(800)
    pairs = [(a.topics[-1], b.topics[-1]) for d in docs for a, b in itertools.pairwise(d.sentences)]
    rate = sum(a != b for a, b in pairs) / len(pairs)
    assert rate == pytest.approx(corpus.SWITCH_TOPIC, abs=4 * math.sqrt(0.06 * 0.94 / len(pairs)))
    opened = sum(d.topics[0] == NO_TOPIC for d in docs) / len(docs)
    assert opened == pytest.approx(corpus.OPENER_FIRST, abs=0.065)


def test_fitted_keeps_whole_sentences():
    for doc in some_documents(100):
        fitted = doc.fitted(30)
        assert len(fitted.words) <= 30
        assert fitted.sentences == doc.sentences[: len(fitted.sentences)]
        assert doc.text.count(".") == len(doc.sentences)
        assert 3 <= len(doc.sentences) <= 9
        if len(fitted.sentences) < len(doc.sentences):
            assert len(fitted.words) + len(doc.sentences[len(fitted.sentences)].words) > 30
