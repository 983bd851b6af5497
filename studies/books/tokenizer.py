"""A byte-pair tokenizer learnt from the books: pieces of words with a leading `▁` for the space, as in Gemma, and 256 bytes."""

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from studies.world.tokenizer import SPACE, SPECIAL_TOKENS, UNK, hugging_face_form

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
# A word, a digit or a mark with the space before it: no piece joins two of them, so "." is inside no other piece than "▁.".
_UNITS = Regex(f"{SPACE}?[A-Za-z]+|{SPACE}?[0-9]|{SPACE}?[^A-Za-z0-9{SPACE}]|{SPACE}")


def learn_tokenizer(sentences: Iterable[str], context: int, vocabulary: int) -> PreTrainedTokenizerFast:
    """The tokenizer in Hugging Face form. It puts BOS in front on its own and, like Gemma's, no space before the first word.

    Every other sentence is learnt from with a space in front, so that words get pieces both as a text begins and inside one.
    """
    letters = [SPACE, *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*special, *BYTES],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    learner = _untrained(models.BPE())
    learner.train_from_iterator((" " * (place % 2) + sentence for place, sentence in enumerate(sentences)), trainer)
    # The trainer counts bytes as special tokens, which a decoder skips: the same pieces without that.
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in learnt["merges"]]
    return hugging_face_form(_untrained(models.BPE(vocab=learnt["vocab"], merges=merges, byte_fallback=True, unk_token=UNK)), context)


def _untrained(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([spaces, pre_tokenizers.Split(_UNITS, "isolated")])
    return tokenizer
