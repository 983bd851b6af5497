"""What the folder of a sentence-embedding model says of how a text's vector is made from its tokens', in the form of sentence-transformers:
what the encoder puts out, pooled over tokens and normalised. Models with further layers behind that are refused.
"""

from dataclasses import dataclass
from pathlib import Path

from saesteer.core.errors import SettingsError
from saesteer.core.files import read_json

MODULES, POOLING, LENGTHS = "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"
_KNOWN = ("Transformer", "Pooling", "Normalize")
_MODES = {"mean_tokens": "mean", "mean": "mean", "cls_token": "cls", "cls": "cls"}


@dataclass(frozen=True)
class TextPooling:
    """How token vectors become a text's."""

    mode: str
    """mean: their mean, special tokens included; cls: the first one."""
    max_tokens: int | None
    """Longer texts are cut; None: as the tokenizer says."""


def text_pooling(folder: Path) -> TextPooling:
    """What the folder's files say; refused where they say nothing, or something else than the mean or the first token."""
    modules, pooling, lengths = (read_json(path) if (path := folder / name).exists() else None for name in (MODULES, POOLING, LENGTHS))
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules or () if isinstance(module, dict)]
    if further := [kind for kind in kinds if kind not in _KNOWN]:
        raise SettingsError(f"{folder / MODULES}: the model has a module {further[0]}: take one that has only {', '.join(_KNOWN)}")
    if not isinstance(pooling, dict):
        raise SettingsError(
            f"{folder / POOLING} says nothing of how token vectors become a text's: take a sentence-embedding model with that file, or"
            ' write {"pooling_mode_mean_tokens": true} into it if the card of the model says mean pooling'
        )
    flags = [name.removeprefix("pooling_mode_") for name, value in pooling.items() if value is True and name.startswith("pooling_mode_")]
    modes = [str(pooling["pooling_mode"])] if "pooling_mode" in pooling else flags
    if len(modes) != 1 or modes[0] not in _MODES:
        raise SettingsError(
            f"{folder / POOLING}: the pooling is {' and '.join(modes) or 'none'}: take a model whose pooling is mean or cls"
        )
    return TextPooling(_MODES[modes[0]], lengths.get("max_seq_length") if isinstance(lengths, dict) else None)
