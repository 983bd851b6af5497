"""A model's tokenizer without its model: token strings and re-tokenised text, through the tokenizers library alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from saesteer.settings import SettingsError


@dataclass(frozen=True)
class TextTokens:
    tokenizer: Tokenizer

    def strings(self, token_ids: Sequence[int]) -> list[str]:
        """Tokens as the tokenizer writes them ("▁" kept)."""
        return [str(self.tokenizer.id_to_token(token_id)) for token_id in token_ids]

    def retokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without BOS or other special tokens."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def load_tokens(model: Path) -> TextTokens:
    """The tokenizer of a model folder."""
    path = model / "tokenizer.json"
    if not path.is_file():
        raise SettingsError(f"{path} is missing: the model's folder needs its fast tokenizer; save it with AutoTokenizer.save_pretrained")
    return TextTokens(Tokenizer.from_file(str(path)))
