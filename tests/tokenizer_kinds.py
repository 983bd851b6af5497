"""A small tokenizer of every kind, made with the tokenizers library."""

import json
from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

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
