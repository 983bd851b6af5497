"""A model's tokenizer without its model: token strings, re-tokenised text and texts as the model reads them, through the tokenizers library
alone.

Two conventions of writing a token's space exist, and token strings follow that of the model's tokenizer, as Neuronpedia's do: SentencePiece
tokenizers (Gemma, Llama 2) write "▁the", byte-level ones (GPT-2, Pythia, Llama 3) are read as " the".

Some tokenizers put a space before every text (Llama 2, Mistral: SentencePiece's dummy prefix). What is tokenised again here stood inside a
text, so it is tokenised without that space.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from saesteer.core.errors import SettingsError
from saesteer.core.files import regular_file

ALGORITHM_VERSION = 1
LEAST_ROUND_TRIP = 0.99
_NO_PREFIX: dict[str, dict[str, Any]] = {"Metaspace": {"prepend_scheme": "never"}, "ByteLevel": {"add_prefix_space": False}}
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class TextTokens:
    tokenizer: Tokenizer
    bos_id: int | None = None  # the beginning-of-sequence token, whether or not the tokenizer adds it; None: it has none
    source: str = "tokenizer"  # what errors call it

    @property
    def byte_level(self) -> bool:
        """Whether token strings are spelled in GPT-2's alphabet of bytes, in which "Ġ" is a space; its decoder says so."""
        decoder = self.tokenizer.decoder
        return decoder is not None and decoder.decode(["Ġ"]) == " "

    @property
    def special_ids(self) -> list[int]:
        """Tokens that the tokenizer marks as special."""
        return sorted(token_id for token_id, token in self.tokenizer.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def latin_ids(self) -> list[int]:
        """Tokens that are text of the Latin script: not added to the vocabulary (special ones, markup), no byte or part of a character, no
        letter or mark of another script. Digits, punctuation and spaces belong to every script."""
        added = self.tokenizer.get_added_tokens_decoder()
        token_ids = sorted(set(self.tokenizer.get_vocab().values()).difference(added))
        return [token_id for token_id, string in zip(token_ids, self.strings(token_ids), strict=True) if _is_latin(string)]

    def strings(self, token_ids: Sequence[int]) -> list[str]:
        """Tokens as the tokenizer writes them ("▁" kept); of a byte-level tokenizer, the text that they stand for."""
        pieces = [self._piece(token_id) for token_id in token_ids]
        return [self.tokenizer.decoder.decode([piece]) for piece in pieces] if self.byte_level else pieces

    def _piece(self, token_id: int) -> str:
        piece: str | None = self.tokenizer.id_to_token(token_id)
        if piece is None:
            raise SettingsError(
                f"{self.source}: {token_id} is no token of its vocabulary ({self.tokenizer.get_vocab_size()} tokens): token ids of another"
                " tokenizer? Give texts, or the tokenizer that made them"
            )
        return piece

    def text_of(self, string: str) -> str:
        """What a token string (from here or from Neuronpedia) says: "▁" is a space, except where it is a character like any other."""
        return string if self.byte_level else string.replace("▁", " ")

    def retokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text that goes on another one: without BOS or other special tokens, and without a dummy prefix."""
        return [encoding.ids for encoding in self._without_prefix.encode_batch(list(texts), add_special_tokens=False)]

    def retokenised_ids(self, strings: Sequence[str]) -> list[int | None]:
        """The first id of each token string when what it says is tokenised again; None where that gives no token.

        A piece that says nothing by itself has the id of its name: a byte (of byte fallback, "<0x0A>"), the rest of a word (WordPiece's
        "##ing").
        """
        first = [ids[0] if ids else None for ids in self.retokenise([self.text_of(string) for string in strings])]
        return [
            self.tokenizer.token_to_id(string) if self._is_part(string) else again for string, again in zip(strings, first, strict=True)
        ]

    def _is_part(self, string: str) -> bool:
        if self.byte_level or self.tokenizer.token_to_id(string) is None:
            return False
        rest_of_word = getattr(self.tokenizer.model, "continuing_subword_prefix", None)
        return bool(_BYTE.fullmatch(string)) or bool(rest_of_word and string.startswith(rest_of_word))

    @cached_property
    def _of_whole_texts(self) -> Tokenizer:
        """The tokenizer, or a copy that neither cuts nor pads texts: transformers leaves in it, and in its file, what a last call set."""
        if self.tokenizer.truncation is None and self.tokenizer.padding is None:
            return self.tokenizer
        whole = Tokenizer.from_str(self.tokenizer.to_str())
        whole.no_truncation()
        whole.no_padding()
        return whole

    @cached_property
    def _without_prefix(self) -> Tokenizer:
        """The tokenizer less what puts a space before a text."""
        parts = {}
        for name in ("normalizer", "pre_tokenizer"):
            part = getattr(self.tokenizer, name)
            parts[name] = None if part is None else json.loads(part.__getstate__())  # as the tokenizer's file writes it
        bare = {name: _without_prefix(part) for name, part in parts.items()}
        whole = self._of_whole_texts
        return whole if bare == parts else Tokenizer.from_str(json.dumps(json.loads(whole.to_str()) | bare))

    @cached_property
    def round_trip(self) -> float:
        """Share of the vocabulary whose strings, tokenised again, give the very token. Special tokens do not count, nor do those of a
        byte-level tokenizer that hold a part of a character only."""
        token_ids = sorted(set(self.tokenizer.get_vocab().values()).difference(self.special_ids))
        strings = dict(zip(token_ids, self.strings(token_ids), strict=True))
        texts = {token_id: string for token_id, string in strings.items() if not (self.byte_level and "\ufffd" in string)}
        again = self.retokenised_ids(list(texts.values()))
        return sum(token_id == other for token_id, other in zip(texts, again, strict=True)) / max(len(texts), 1)

    def check_round_trip(self) -> None:
        """Refuse to tokenise again with a tokenizer whose tokens do not come back as themselves."""
        if self.round_trip < LEAST_ROUND_TRIP:
            raise SettingsError(
                f"{self.source}: only {self.round_trip:.1%} of its tokens come back as themselves when their strings are tokenised again"
                " (tokens: retokenised), so other tokens would be scored: set input_score.tokens and gen_success.tokens to ids, with"
                " max-activating examples of kind local (Neuronpedia's have no ids)"
            )

    def ids_alone(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text without special tokens."""
        return [encoding.ids for encoding in self._of_whole_texts.encode_batch(list(texts), add_special_tokens=False)]

    def token_ids(self, texts: Sequence[str], bos: str, max_tokens: int | None = None) -> list[list[int]]:
        """The ids of each text as the model is given it: with the beginning-of-sequence token that the tokenizer adds or, where `bos` is
        "always", with one in any case; cut after `max_tokens`, that token included."""
        if bos == "always" and self.bos_id is None:
            raise SettingsError(f"{self.source}: its tokenizer has no beginning-of-sequence token; set the model's bos to tokenizer")
        encodings = self._of_whole_texts.encode_batch(list(texts), add_special_tokens=True)
        return [with_bos(encoding.ids, bos, self.bos_id)[:max_tokens] for encoding in encodings]


def _is_latin(string: str) -> bool:
    if _BYTE.fullmatch(string) or "\ufffd" in string:
        return False
    return all(unicodedata.name(character, "").startswith("LATIN ") for character in string if unicodedata.category(character)[0] in "LM")


def _without_prefix(part: Any) -> Any:
    """A component less what puts a space before a text; None where nothing is left."""
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        (members,) = (name for name in part if name != "type")
        members_left = [bare for bare in map(_without_prefix, part[members]) if bare is not None]
        return part | {members: members_left}
    return part | {name: value for name, value in _NO_PREFIX.get(part["type"], {}).items() if name in part}


def load_tokens(model: Path) -> TextTokens:
    """The tokenizer of a model folder, with the beginning-of-sequence token that its settings name or else the model's (GPT-2's name none
    in the former)."""
    path = model / "tokenizer.json"
    if not path.is_file():
        raise SettingsError(f"{path} is missing: the model's folder needs its fast tokenizer; save it with AutoTokenizer.save_pretrained")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise SettingsError(f"{path} is no tokenizer that can be read: {error}") from error
    config = model / "tokenizer_config.json"
    bos_token = _read_json(config).get("bos_token")
    if bos_token is None:
        bos_id = _read_json(model / "config.json").get("bos_token_id")
    else:
        bos_string = bos_token.get("content") if isinstance(bos_token, dict) else bos_token
        if not isinstance(bos_string, str):
            raise SettingsError(f"{config}: bos_token is {bos_token!r:.60}, but has to be a token's text")
        bos_id = tokenizer.token_to_id(bos_string)
    return TextTokens(tokenizer, bos_id, str(model))


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(regular_file(path).read_text(encoding="utf-8")) if path.exists() else {}


def with_bos(token_ids: list[int], bos: str, bos_id: int | None) -> list[int]:
    """Token ids that a tokenizer made, under a model's `bos` rule: "tokenizer" leaves them alone, "always" puts the beginning-of-sequence
    token first unless it is there."""
    return [bos_id, *token_ids] if bos == "always" and bos_id is not None and token_ids[:1] != [bos_id] else token_ids
