"""Token strings tokenised again, with every kind of tokenizer. They are made here with the tokenizers library, which says what is right."""

import json
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from saesteer.core.errors import SettingsError
from saesteer.core.tokens import TextTokens

TEXTS = [
    "the sea is calm and the ships are sailing home again",
    "sailors sing of the sea, the wind and the sailing ships",
    "a house on the hill: nobody is living there, nobody is singing",
    "ships sail, sailors sail; the north wind is blowing in the sails",
] * 5
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACES = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
LLAMA_DECODER = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
SEA = "the sea"


def sentence_piece_bpe(normalizer: normalizers.Normalizer) -> Tokenizer:
    """BPE over whole texts with "▁" for the space and bytes for what it does not know: the form of Llama 2, Mistral (with the dummy prefix)
    and Gemma (without)."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer, trained.pre_tokenizer = normalizer, pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False))
    state = json.loads(trained.to_str())["model"]
    vocab = {piece: place for place, piece in enumerate([*SPECIAL, *BYTES, *(piece for piece in state["vocab"] if piece not in SPECIAL)])}
    merges = [tuple(pair) for pair in state["merges"]]
    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer, made.decoder = normalizer, decoders.Sequence(LLAMA_DECODER)
    made.add_special_tokens(SPECIAL)
    return made


def unigram(scheme: str) -> Tokenizer:
    """SentencePiece's Unigram behind a Metaspace: words and parts of words at the same cost, so that no piece is spelled by others."""
    words = dict.fromkeys(word for text in TEXTS for word in text.replace(",", "").replace(":", "").replace(";", "").split())
    parts = dict.fromkeys([*"▁,:;", *"abcdefghijklmnopqrstuvwxyz", *words, *(f"▁{word}" for word in words)])
    pieces = [*((special, 0.0) for special in SPECIAL), *((part, -10.0) for part in parts)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def byte_level(add_prefix_space: bool) -> Tokenizer:
    """GPT-2's form; of RoBERTa's kind where it puts a space before a text."""
    tokenizer = Tokenizer(models.BPE())
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), bytes_of]) if add_prefix_space else bytes_of
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    """BERT's form."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "BPE with dummy prefix (Llama 2)": lambda: sentence_piece_bpe(normalizers.Sequence(SPACES)),
    "BPE without (Gemma)": lambda: sentence_piece_bpe(SPACES[1]),
    "Unigram with dummy prefix": lambda: unigram("always"),
    "Unigram with one at the start only": lambda: unigram("first"),
    "Unigram without": lambda: unigram("never"),
    "byte-level (GPT-2)": lambda: byte_level(False),
    "byte-level with prefix (RoBERTa)": lambda: byte_level(True),
    "WordPiece (BERT)": word_piece,
}


@pytest.fixture(scope="module", params=KINDS)
def tokens(request: pytest.FixtureRequest) -> TextTokens:
    return TextTokens(KINDS[request.param]())


def test_every_token_comes_back_as_itself(tokens: TextTokens) -> None:
    vocabulary = {token_id: piece for piece, token_id in tokens.tokenizer.get_vocab().items() if piece not in SPECIAL}
    strings = tokens.strings(list(vocabulary))
    whole = [(token_id, string) for token_id, string in zip(vocabulary, strings, strict=True) if "\ufffd" not in string]
    assert len(whole) > 80
    assert tokens.retokenised_ids([string for _, string in whole]) == [token_id for token_id, _ in whole]
    assert tokens.round_trip == 1
    tokens.check_round_trip()


def test_continuations_keep_their_tokens(tokens: TextTokens) -> None:
    """What follows a prefix, cut off as text, has the tokens that it has in the whole."""
    for text in TEXTS[:4]:
        (together,) = tokens.tokenizer.encode_batch([f"{SEA} {text}"], add_special_tokens=False)
        (prefix,) = tokens.tokenizer.encode_batch([SEA], add_special_tokens=False)
        assert together.ids[: len(prefix.ids)] == prefix.ids
        continuation = tokens.tokenizer.decode(together.ids)[len(tokens.tokenizer.decode(prefix.ids)) :]
        assert tokens.retokenise([continuation]) == [together.ids[len(prefix.ids) :]]


def test_a_dummy_prefix_would_have_made_other_tokens() -> None:
    """The fault that this guards against, on the tokenizer itself."""
    tokens = TextTokens(KINDS["BPE with dummy prefix (Llama 2)"]())
    as_it_stands = tokens.tokenizer.encode_batch([" the", "ing", "<0x0A>"], add_special_tokens=False)
    named = [tokens.tokenizer.token_to_id(piece) for piece in ("▁the", "ing", "<0x0A>")]
    assert all(encoding.ids[0] != token_id for encoding, token_id in zip(as_it_stands, named, strict=True))
    assert tokens.retokenised_ids(["▁the", "ing", "<0x0A>", ""]) == [*named, None]


def test_the_models_own_tokenizer_stays_as_it_is() -> None:
    tokenizer = KINDS["Unigram with dummy prefix"]()
    before = tokenizer.to_str()
    assert TextTokens(tokenizer).round_trip == 1
    assert tokenizer.to_str() == before


def test_a_vocabulary_that_does_not_come_back_is_refused() -> None:
    """A tokenizer that writes text in lower case, but has tokens in upper case: 3 of 6."""
    tokenizer = Tokenizer(models.WordLevel({"sea": 0, "Sea": 1, "ship": 2, "Ship": 3, "wind": 4, "Wind": 5, "<unk>": 6}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>"])
    tokens = TextTokens(tokenizer, source="some/model")
    assert tokens.round_trip == 0.5
    with pytest.raises(SettingsError, match=r"some/model: only 50\.0% .* set input_score\.tokens and gen_success\.tokens to ids"):
        tokens.check_round_trip()
