"""A model's tokenizer without its model: token strings, re-tokenised text and texts as the model reads them, through the tokenizers library
alone.

Two conventions of writing a token's space exist, and token strings follow that of the model's tokenizer, as Neuronpedia's do: SentencePiece
tokenizers (Gemma, Llama 2) write "▁the", byte-level ones (GPT-2, Pythia, Llama 3) are read as " the".
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from saesteer.core.errors import SettingsError

ALGORITHM_VERSION = 1


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

    def strings(self, token_ids: Sequence[int]) -> list[str]:
        """Tokens as the tokenizer writes them ("▁" kept); of a byte-level tokenizer, the text that they stand for."""
        pieces = [str(self.tokenizer.id_to_token(token_id)) for token_id in token_ids]
        return [self.tokenizer.decoder.decode([piece]) for piece in pieces] if self.byte_level else pieces

    def text_of(self, string: str) -> str:
        """What a token string (from here or from Neuronpedia) says: "▁" is a space, except where it is a character like any other."""
        return string if self.byte_level else string.replace("▁", " ")

    def retokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without BOS or other special tokens."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def token_ids(self, texts: Sequence[str], bos: str, max_tokens: int | None = None) -> list[list[int]]:
        """The ids of each text as the model is given it: with the beginning-of-sequence token that the tokenizer adds or, where `bos` is
        "always", with one in any case; cut after `max_tokens`, that token included."""
        if bos == "always" and self.bos_id is None:
            raise SettingsError(f"{self.source}: its tokenizer has no beginning-of-sequence token; set the model's bos to tokenizer")
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=True)
        return [with_bos(encoding.ids, bos, self.bos_id)[:max_tokens] for encoding in encodings]


def load_tokens(model: Path) -> TextTokens:
    """The tokenizer of a model folder."""
    path = model / "tokenizer.json"
    if not path.is_file():
        raise SettingsError(f"{path} is missing: the model's folder needs its fast tokenizer; save it with AutoTokenizer.save_pretrained")
    tokenizer = Tokenizer.from_file(str(path))
    return TextTokens(tokenizer, _bos_id(model, tokenizer), str(model))


def _bos_id(model: Path, tokenizer: Tokenizer) -> int | None:
    """The beginning-of-sequence token that the tokenizer's settings name or else the model's (GPT-2's name none in the former)."""
    named = _read_json(model / "tokenizer_config.json").get("bos_token")
    if named is not None:
        return tokenizer.token_to_id(named["content"] if isinstance(named, dict) else named)
    return _read_json(model / "config.json").get("bos_token_id")


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def with_bos(token_ids: list[int], bos: str, bos_id: int | None) -> list[int]:
    """Token ids that a tokenizer made, under a model's `bos` rule: "tokenizer" leaves them alone, "always" puts the beginning-of-sequence
    token first unless it is there."""
    return [bos_id, *token_ids] if bos == "always" and bos_id is not None and token_ids[:1] != [bos_id] else token_ids
