"""Tokens by what a GGUF file says of its vocabulary, without transformers: byte pairs merged one at a time, and SentencePiece itself."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import regex
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPLITS = {
    "gpt-2": [_GPT_2],
    "smollm": [r"\p{N}", _GPT_2],
    "qwen2": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
}
"""tokenizer.ggml.pre -> regular expressions that cut a text into pieces, one after the other (llama.cpp, src/llama-vocab.cpp)."""


def _alphabet() -> dict[int, str]:
    """GPT-2's character for each byte: printable ones stand for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _pieces(text: str, patterns: Sequence[str]) -> list[str]:
    pieces = [text]
    for pattern in patterns:
        cut = []
        for piece in pieces:
            end = 0
            for match in regex.finditer(pattern, piece):
                cut += [piece[end : match.start()], match[0]]
                end = match.end()
            cut.append(piece[end:])
        pieces = [piece for piece in cut if piece]
    return pieces


def byte_pair_ids(texts: Sequence[str], said: Mapping[str, Any]) -> list[list[int]]:
    """The ids of each text: the pair that was merged first in training is merged first, over and over (arXiv 1508.07909)."""
    spelling, ids = _alphabet(), {token: number for number, token in enumerate(said["tokens"])}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(said["merges"])}

    def of_piece(piece: str) -> list[int]:
        parts = [spelling[byte] for byte in piece.encode()]
        while len(parts) > 1:
            rank, place = min((ranks.get(pair, len(ranks)), place) for place, pair in enumerate(itertools.pairwise(parts)))
            if rank == len(ranks):
                break
            parts[place : place + 2] = ["".join(parts[place : place + 2])]
        return [ids[part] for part in parts]

    return [[number for piece in _pieces(text, SPLITS[said["pre"]]) for number in of_piece(piece)] for text in texts]


def sentence_piece(said: Mapping[str, Any], dummy_prefix: bool) -> sentencepiece.SentencePieceProcessor:
    """SentencePiece's own reader of such a vocabulary; runs of spaces are spelled with ▁."""
    model = sentencepiece_model_pb2.ModelProto()
    for token, score, kind in zip(said["tokens"], said["scores"], said["token_type"], strict=True):
        piece = model.pieces.add()
        piece.piece, piece.score, piece.type = token.replace(" ", "▁"), score, kind
    trainer, normaliser = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback = 2, True  # BPE
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = said["unknown_token_id"], -1, -1, -1
    normaliser.name, normaliser.add_dummy_prefix = "identity", dummy_prefix
    normaliser.remove_extra_whitespaces, normaliser.escape_whitespaces = False, True
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


_TEXTS = (
    "The ship was calm.",
    "naïve café à Zürich, Größe",
    "😀 👩‍👩‍👧 🇩🇪 fire🔥",
    "def f(x):\n    return x**2  # ok\n\tif y:",
    "日本語のテキスト 한국어 ไทย",
    "In 2018, 1234 people paid 3.50€ for 12kg",
    "I'll don't WE'VE they're",
    "a\r\n\r\nb\t\tc",
    "<b>html</b> & {{json: [1, 2]}}",
    "1/2 ²³ Ⅷ ٣ ½",
    "x",
    "",
    "   ",
    "e\u0301 combining ñ",
    "https://a.b/c?d=e&f=%20g",
    "“quotes” … — dashes",
    "zero\u200bwidth",
    "MixedCASE_with-kebab",
    "\n\n\n",
    "emoji😀in😀word",
)
TEXTS = [
    around.format(text.format(), text.format())
    for text in _TEXTS
    for around in ("{}", " {}", "  {}", "{} ", "{}\n", "\n{}", "({})", "{}{}", "{} {}", "\t{}")
]
"""200 texts with what tokenizers differ in: emoji, code, accents, scripts, numbers, spaces at either end."""
