"""A Unigram tokenizer made from the word list: words (with a leading `▁` for the space, as in Gemma), characters, 256 bytes.

Any text without a literal `▁` (which stands for the space, as in every such tokenizer) comes back unchanged.
"""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from saesteer.world import grammar
from saesteer.world.grammar import ADVERBS, CLOSING, DETERMINERS, opener_words
from saesteer.world.lexicon import Lexicon

PAD, EOS, BOS, UNK = SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")
PAD_ID, EOS_ID, BOS_ID, UNK_ID = range(4)
SPACE = "▁"
CONTEXT = 64
# Any word beats its spelling: one piece costs 10, two characters 40.
WORD_SCORE, CHARACTER_SCORE, BYTE_SCORE = -10.0, -20.0, -30.0


def vocabulary(lexicon: Lexicon) -> tuple[list[str], list[str]]:
    """(every word that the grammar can write, those of them that can begin a document), sorted."""
    inner: set[str] = {"an", "il", "elle", "he", "she", "even", "odd", *grammar.DIGITS, *DETERMINERS, *ADVERBS}
    for template in (*grammar.ENGLISH, *grammar.FRENCH, *grammar.NUMBERS, *grammar.CODE):
        inner.update(word for word in template.split() if not word.startswith("{"))
    for topic in lexicon.topics:
        inner.update(word for words in topic.lists.values() for phrase in words for word in phrase.split())
    starts = {word.capitalize() for word in (*DETERMINERS, "an", "he", "she", "in", "there", "when", "everyone", "no", "nobody", "if")}
    starts |= {word.capitalize() for word in ("le", "la", "il", "elle", "dans")}
    for topic in lexicon.topics:
        starts.update(word.capitalize() for word in topic.lists.get("words", ()))
        starts.update(topic.lists.get("variables", ()))
    starts |= {template.split()[0] for template in grammar.CODE if not template.startswith("{")}
    for opener in lexicon.openers:
        words = opener_words(opener)
        inner.update(words)
        starts.add(words[0])
    return sorted((inner | starts) - set(CLOSING)), sorted(starts)


def pieces(lexicon: Lexicon) -> list[tuple[str, float]]:
    """All pieces with their scores: special tokens, bytes, characters, words. "." is one of the characters and inside no other piece."""
    words, starts = vocabulary(lexicon)
    characters = [SPACE, *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    scored = dict.fromkeys(SPECIAL_TOKENS, 0.0)
    scored |= {f"<0x{byte:02X}>": BYTE_SCORE for byte in range(256)}
    scored |= dict.fromkeys(characters, CHARACTER_SCORE)
    scored |= dict.fromkeys((SPACE + word for word in words), WORD_SCORE)
    scored |= dict.fromkeys((*starts, *CLOSING), WORD_SCORE)
    return list(scored.items())


def build_tokenizer(lexicon: Lexicon) -> PreTrainedTokenizerFast:
    """The tokenizer in Hugging Face form. It puts BOS in front on its own and, like Gemma's, no space before the first word."""
    tokenizer = Tokenizer(models.Unigram(pieces(lexicon), unk_id=UNK_ID, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
