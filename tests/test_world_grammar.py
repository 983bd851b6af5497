"""The grammar: deterministic, labelled, closed vocabulary, true number facts, and an honest -log p."""

import collections
import itertools
import math
from pathlib import Path

import pytest

from saesteer.world import grammar
from saesteer.world.grammar import NO_TOPIC, Dice
from saesteer.world.lexicon import OUTPUT_SCORE_PROMPT, load_lexicon, load_prefixes
from saesteer.world.streams import stream_seed, text_stream
from studies.world import corpus

ROOT = Path(__file__).resolve().parent.parent
LEXICON = load_lexicon(ROOT / "data/world/lexicon.yaml", ROOT / "config/prefixes.txt")


def some_documents(n: int, name: str = "test/grammar") -> list[corpus.Document]:
    return list(itertools.islice(corpus.documents(LEXICON, text_stream(0, name)), n))


def test_same_stream_same_texts_other_stream_other_texts():
    first, again, other = (some_documents(50, name) for name in ("a", "a", "b"))
    assert first == again
    assert not {d.text for d in first} & {d.text for d in other}
    # SHA-256 of "saesteer-world/0/train", first 8 bytes, shifted right by one: computed with sha256sum.
    assert stream_seed(0, "train") == int("07f53527f68c08ad", 16) >> 1


def test_every_word_has_a_label_openers_have_none_and_the_only_full_stop_ends_a_sentence():
    openers = {grammar.opener_words(opener) for opener in LEXICON.openers}
    for sentence in itertools.chain.from_iterable(d.sentences for d in some_documents(300)):
        assert len(sentence.words) == len(sentence.topics)
        opening = tuple(w for w, t in zip(sentence.words, sentence.topics, strict=True) if t == NO_TOPIC)
        assert opening == () or opening in openers
        assert opening == sentence.words[: len(opening)]
        assert len(set(sentence.topics[len(opening) :])) == 1
        assert [word for word in sentence.words if "." in word] == ["."] == [sentence.words[-1]]


def test_a_labelled_word_belongs_to_its_topic():
    """Content words of one topic's lists never come under a topic that lacks them."""
    owners = collections.defaultdict(set)
    for index, topic in enumerate(LEXICON.topics):
        for phrase in itertools.chain.from_iterable(topic.lists.values()):
            for word in phrase.split():
                owners[word].add(index)
    shared = {w for t in (*grammar.ENGLISH, *grammar.FRENCH, *grammar.NUMBERS, *grammar.CODE) for w in t.split()} | set(grammar.ADVERBS)
    for doc in some_documents(300):
        for word, topic in zip(doc.words, doc.topics, strict=True):
            if topic != NO_TOPIC and word in owners and word not in shared:
                assert topic in owners[word], (word, LEXICON.names[topic])


def test_number_facts_are_true():
    values = {word: value for value, word in enumerate(LEXICON.topics[LEXICON.names.index("numbers")].lists["words"])}
    rng = text_stream(0, "test/numbers")
    checked = collections.Counter()
    for _ in range(2000):
        words = [w.lower() for w in grammar.single_sentence(LEXICON, LEXICON.names.index("numbers"), 0.0, rng).words]
        match words:
            case [a, "plus", b, "is", c, "."]:
                assert values[a] + values[b] == values[c]
            case [c, "minus", a, "is", b, "."]:
                assert values[c] - values[a] == values[b]
            case [a, "times", b, "is", c, "."]:
                assert values[a] * values[b] == values[c]
            case [c, "is", "greater", "than", a, "."]:
                assert values[c] > values[a]
            case [a, "is", "an", parity, "number", "."]:
                assert parity == ("odd" if values[a] % 2 else "even")
            case ["the", "double", "of", a, "is", c, "."]:
                assert values[c] == 2 * values[a]
            case _:
                pytest.fail(f"unknown kind of fact: {words}")
        checked["times" in words, "minus" in words, "plus" in words] += 1
    assert len(checked) == 4


def test_an_before_vowels_only():
    for doc in some_documents(300):
        for word, after in itertools.pairwise(doc.words):
            if word.lower() in ("a", "an") and after not in ("time", "friend", "small", "pity", "while", "old"):
                assert (word.lower() == "an") == (after[0] in "aeiou"), (word, after)


def test_nats_are_minus_log_of_the_frequencies():
    """Whole sentences' nats against how often the grammar writes them, for the shortest kind: imports, frequent and rare ones."""
    code = LEXICON.names.index("code")
    rng = text_stream(0, "test/nats")
    drawn = [grammar.single_sentence(LEXICON, code, 0.0, rng) for _ in range(6000)]
    counts = collections.Counter(s.words for s in drawn)
    nats = {s.words: s.nats for s in drawn}
    imports = [words for words in counts if words[0] == "import" and counts[words] >= 5]
    assert len(imports) > 20
    for words in imports:
        expected = len(drawn) * math.exp(-nats[words])
        assert abs(counts[words] - expected) < 4.5 * math.sqrt(expected), words


def test_zipf_weights_by_hand():
    # Ranks 1, 2, 3 at exponent 1: weights 1, 1/2, 1/3, sum 11/6.
    dice = Dice(text_stream(0, "test/zipf"))
    drawn = []
    for _ in range(6000):
        before = dice.nats
        index = dice.zipf(3, 1.0)
        drawn.append(index)
        assert math.exp(before - dice.nats) == pytest.approx((6 / 11, 3 / 11, 2 / 11)[index])
    assert drawn.count(0) / 6000 == pytest.approx(6 / 11, abs=0.03)


def test_prefixes_are_fifty_and_neutral():
    prefixes = load_prefixes(ROOT / "config/prefixes.txt")
    assert len(prefixes) == 50
    assert OUTPUT_SCORE_PROMPT not in prefixes
    # These three words are ambiguous: they stand in a prefix and in a topic (joy, school).
    topical = {word for topic in LEXICON.topics for words in topic.lists.values() for phrase in words for word in phrase.split()}
    assert topical & {word for prefix in prefixes for word in grammar.opener_words(prefix)} == {"surprise", "learned", "explained"}


def test_bad_prefix_is_refused_with_its_line(tmp_path: Path):
    path = tmp_path / "prefixes.txt"
    for line in ("It was cold. Then", "", " leading"):
        path.write_text(f"It seems that\n{line}\nBut\n", encoding="utf-8")
        with pytest.raises(ValueError, match="line 2"):
            load_prefixes(path)


def test_yaml_truth_value_among_the_words_is_refused(tmp_path: Path):
    text = (ROOT / "data/world/lexicon.yaml").read_text(encoding="utf-8").replace("fraudulent", "false")
    (tmp_path / "lexicon.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"law\.adjectives"):
        load_lexicon(tmp_path / "lexicon.yaml", ROOT / "config/prefixes.txt")
