"""Token strings tokenised again, with every kind of tokenizer. The tokenizers library says what is right."""

import pytest
from tokenizer_kinds import KINDS, SPECIAL, TEXTS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from saesteer.core.errors import SettingsError
from saesteer.core.tokens import TextTokens

SEA = "the sea"


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


def test_what_another_call_left_in_a_tokenizer_cuts_and_pads_nothing(tokens: TextTokens) -> None:
    """transformers leaves its last call's truncation and padding there, also in tokenizer.json when it is saved."""
    texts = [*TEXTS[:4], SEA]
    left = Tokenizer.from_str(tokens.tokenizer.to_str())
    left.enable_truncation(3)
    left.enable_padding(direction="left")
    other = TextTokens(left)
    assert other.token_ids(texts, "tokenizer") == tokens.token_ids(texts, "tokenizer")
    assert other.retokenise(texts) == tokens.retokenise(texts)
    assert other.ids_alone(texts) == tokens.ids_alone(texts)
    assert left.truncation["max_length"] == 3


def test_a_vocabulary_that_does_not_come_back_is_refused() -> None:
    """A tokenizer that writes text in lower case, but has tokens in upper case: 3 of 6."""
    tokenizer = Tokenizer(models.WordLevel({"sea": 0, "Sea": 1, "ship": 2, "Ship": 3, "wind": 4, "Wind": 5, "<unk>": 6}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>"])
    tokens = TextTokens(tokenizer, source="some/model")
    assert tokens.round_trip == 0.5
    with pytest.raises(SettingsError, match=r"some/model: only 50\.0% .* set input_score\.tokens and gen_success\.tokens to ids"):
        tokens.check_round_trip()
