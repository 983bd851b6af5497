"""How much texts are about a concept by the words that a feature's top logit-lens tokens are no part of.

GenSuccess and the output score count these tokens. What is left of a text without them says whether steering brought the concept, or the
tokens alone.
"""

from collections.abc import Callable, Sequence

from saesteer.analysis.acceptability import WORD, has_content
from saesteer.core.tokens import TextTokens
from saesteer.judge.rate_embedding import LEAST_UNSTEERED, Concept, concept_ratings

ALGORITHM_VERSION = 1

IsLeftOut = Callable[[str], bool]
"""Whether a word is left out."""


def of_lens_tokens(lens: Sequence[str], name: str, tokens: TextTokens) -> IsLeftOut:
    """Words of a concept's name, and those of whose tokens one is among a feature's top logit-lens tokens, in whatever case."""
    pieces = {_bare(token) for token in lens} - {""}
    names = {form for word in WORD.findall(name.lower()) for form in (word, f"{word}s")}
    known: dict[str, bool] = {}

    def is_left_out(word: str) -> bool:
        if word not in known:
            (ids,) = tokens.retokenise([f" {word}"])
            known[word] = word.lower() in names or any(_bare(piece) in pieces for piece in tokens.strings(ids))
        return known[word]

    return is_left_out


def _bare(token: str) -> str:
    """What a token says, without its space and in lower case."""
    return token.strip("▁Ġ ").lower()


def ratings_outside(concept: Concept, texts: Sequence[str], unsteered: Sequence[str], is_left_out: IsLeftOut) -> list[int | None]:
    """Concept ratings (`concept_ratings`) of what is left of texts beside what is left of unsteered ones; None where that has no word
    but function words, and where too few unsteered texts have words left."""
    left, plain = ([_without(text, is_left_out) for text in of] for of in (texts, unsteered))
    plain = [text for text in plain if WORD.search(text)]
    if len(plain) < LEAST_UNSTEERED:
        return [None] * len(left)
    ratings = concept_ratings(concept, left, plain)
    return [rating if has_content(text) else None for rating, text in zip(ratings, left, strict=True)]


def _without(text: str, is_left_out: IsLeftOut) -> str:
    return " ".join(WORD.sub(lambda word: "" if is_left_out(word[0]) else word[0], text).split())
