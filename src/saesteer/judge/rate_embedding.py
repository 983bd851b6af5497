"""Ratings of texts for any concept that words name: by the cosine of a text's vector and the concept's, against those of unsteered texts on
the same prompts.

A concept rating of 1 or 2 asks for a cosine above what 95 or 99 % of such unsteered texts stay below, by Student's t for one more value.
That the texts are few is in it, and so is how near any text comes by this embedding. But a few words put into a text about something else
are not what it is about. So the text also has to stand out without the concept's own name and the words that speak most for the concept,
and without any third of it.

Fluency is acceptability (analysis.acceptability), its ranges those of the same unsteered texts. No rating depends on what steered a text.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.analysis.acceptability import (
    DISTINCT_BIGRAMS,
    WORD,
    Acceptable,
    distinct_bigram_share,
    fluency,
    function_word_share,
    has_content,
    is_function_word,
)
from saesteer.analysis.score import judgements
from saesteer.core.errors import SettingsError
from saesteer.core.texts import TEXT_KEYS
from saesteer.core.uncertainty import student_t

ALGORITHM_VERSION = 1

SHARES = (0.95, 0.99)
"""Shares of unsteered texts that must stay below concept ratings 1 and 2."""
SHARE_WITHOUT_WORDS, LEFT_OUT = 0.75, 2
"""For a rating above 0: the share below, once the concept's name and this many words that speak most for it are left out."""
SHARE_WITHOUT_A_THIRD = 0.9
"""For a rating above 0: the share below, once the third of the text that says most about the concept is left out."""
OUTSIDE = 0.05
"""Share of unsteered texts outside a range at each of its ends."""
MOST_TIMES = math.log(2)
"""A text whose perplexity is twice what 95 % of unsteered texts stay below has no fluency."""
HALF = 0.5
"""A text has no fluency if the order of its words is worth less than this share of what it is worth in 95 % of unsteered texts."""
TEXTS_AT_ONCE = 512
"""Texts whose losses are measured and whose vectors are made together."""
LEAST_UNSTEERED = 4
"""Fewest unsteered texts that a range is taken of."""

Embed = Callable[[Sequence[str]], Float[np.ndarray, "text width"]]
"""Texts to vectors of length 1."""


@dataclass(frozen=True)
class Concept:
    """What texts are rated for: its name, and the mean direction of its name, description and examples."""

    name: str
    direction: Float[np.ndarray, " width"]
    embed: Embed

    def cosines(self, texts: Sequence[str]) -> Float[np.ndarray, " text"]:
        """Cosines of texts and the concept."""
        return (self.embed(texts).astype(np.float64) * self.direction).sum(-1) if texts else np.zeros(0)

    def without_telling_words(self, text: str, n: int = LEFT_OUT) -> str:
        """A text without the words of the concept's name and the n words that are nearest to the concept by themselves."""
        names = {form for word in WORD.findall(self.name.lower()) for form in (word, f"{word}s")}
        different = dict.fromkeys(word.lower() for word in WORD.findall(text))
        others = [word for word in different if word not in names and not is_function_word(word)]
        nearest = np.argsort(-self.cosines(others), kind="stable")[:n].tolist()
        left_out = names | {others[place] for place in nearest}
        return " ".join(WORD.sub(lambda word: "" if word[0].lower() in left_out else word[0], text).split())


def concept_of(name: str, described: Sequence[str], embed: Embed) -> Concept:
    """A concept by its name and what else describes it; refused where the name has no word."""
    if not WORD.search(name):
        raise SettingsError(f"the concept {name!r} has no word: name it by words, as a judge of kind embedding knows it by them only")
    mean = embed([name, *described]).astype(np.float64).mean(0)
    return Concept(name, mean / np.linalg.norm(mean), embed)


def texts_and_words(texts: Sequence[str]) -> list[str]:
    """Texts and their words other than function words, once each, whose vectors `concept_ratings` needs."""
    words = (word.lower() for text in texts for word in WORD.findall(text) if not is_function_word(word))
    return list(dict.fromkeys([*texts, *words]))


def thirds_left_out(text: str) -> list[str]:
    """A text without its first, its second and its last third of words."""
    words = text.split()
    first, second = round(len(words) / 3), round(2 * len(words) / 3)
    return [" ".join(part) for part in (words[first:], words[:first] + words[second:], words[:second])]


def concept_ratings(concept: Concept, texts: Sequence[str], unsteered: Sequence[str]) -> list[int | None]:
    """How much each text is about the concept, 0, 1 or 2; None of a text without a word."""
    beyond = (concept.cosines(texts)[:, None] > _bounds(concept.cosines(unsteered), SHARES)).sum(1)
    ratings = [int(rating) if WORD.search(text) else None for rating, text in zip(beyond, texts, strict=True)]
    parts: Sequence[tuple[Callable[[str], list[str]], float]] = (
        (lambda text: [concept.without_telling_words(text)], SHARE_WITHOUT_WORDS),
        (thirds_left_out, SHARE_WITHOUT_A_THIRD),
    )
    for what_remains, share in parts:
        (least,) = _bounds(_least_cosines(concept, [what_remains(text) for text in unsteered]), (share,))
        remaining = {place: what_remains(texts[place]) for place, rating in enumerate(ratings) if rating}
        telling = [place for place, versions in remaining.items() if all(map(has_content, versions))]
        cosines = _least_cosines(concept, [remaining[place] for place in telling])
        for place in remaining.keys() - {place for place, cosine in zip(telling, cosines, strict=True) if cosine > least}:
            ratings[place] = 0
    return ratings


def _least_cosines(concept: Concept, texts: Sequence[Sequence[str]]) -> Float[np.ndarray, " text"]:
    """The smallest cosine with the concept among the versions of each text."""
    cosines = iter(concept.cosines([version for versions in texts for version in versions]))
    return np.array([min(islice(cosines, len(versions))) for versions in texts])


def _bounds(cosines: Float[np.ndarray, " text"], shares: Sequence[float]) -> Float[np.ndarray, " share"]:
    """What one more value is below with these probabilities: Student's t with the error of a single value beside that of the mean."""
    n = len(cosines)
    reach = np.array([student_t(2 * share - 1, n - 1) for share in shares]) * math.sqrt(1 + 1 / n)
    return cosines.mean() + reach * max(float(cosines.std(ddof=1)), 1e-6)


def ranges_of(unsteered: pl.DataFrame) -> Acceptable:
    """The ranges of unsteered texts (text, mean_nll and order_nats); refused where there are too few."""
    texts = _with_words(unsteered).filter(pl.col("mean_nll").is_finite())
    if texts.height < LEAST_UNSTEERED:
        raise SettingsError(
            f"a judge of kind embedding compares with unsteered texts, and of those of the same prompts {texts.height} have words and a"
            f" loss: {LEAST_UNSTEERED} at least are needed; give the experiment more prompts"
        )
    middle, orders = (OUTSIDE, 1 - OUTSIDE), texts["order_nats"].drop_nulls().to_numpy()
    nats = np.quantile(texts["mean_nll"].to_numpy(), middle)
    shares = np.quantile([function_word_share(WORD.findall(text)) for text in texts["text"]], middle)
    least = float(np.quantile(orders, OUTSIDE)) if len(orders) else -math.inf
    low, high = float(nats[0]), float(nats[1])
    return Acceptable((low, high), high + MOST_TIMES, (float(shares[0]), float(shares[1])), least, DISTINCT_BIGRAMS)


def _with_words(texts: pl.DataFrame) -> pl.DataFrame:
    """The texts that have a word: a number alone is none."""
    return texts.filter(pl.Series([WORD.search(text or "") is not None for text in texts["text"]], dtype=pl.Boolean))


def fluency_rating(ranges: Acceptable, text: str, mean_nll: float | None, order_nats: float | None) -> int | None:
    """0, 1 or 2 by a text's words, its mean loss (nats per token) and what its order is worth; None where the loss is undefined."""
    words = WORD.findall(text.lower())
    if order_nats is not None and order_nats < HALF * ranges.order_nats:
        return None if mean_nll is None else 0
    return fluency(ranges, distinct_bigram_share(words), mean_nll, function_word_share(words), order_nats)


def order_matters(ranges: Acceptable, text: str | None, mean_nll: float | None) -> bool:
    """Whether a text's fluency depends on what the order of its words is worth: not where it is 0 or unknown without that."""
    return text is not None and bool(fluency_rating(ranges, text, mean_nll, None))


def rate(
    texts: pl.DataFrame,
    unsteered: pl.DataFrame,
    ranges: Acceptable,
    embed: Embed,
    described: Mapping[str, Sequence[str]],
    rates_blank: bool = False,
) -> pl.DataFrame:
    """The JUDGEMENTS rows of GENERATIONS rows with a column `concept` (null where there is none), mean_nll and order_nats, in their order;
    `unsteered` has texts of the same prompts, and `ranges` are theirs. `described` has what else describes a concept, by its name. What
    cannot be rated is null: where there is no text, no concept, or no word. With `rates_blank` a blank text is rated 0 (P4)."""
    plain = _with_words(unsteered)["text"].to_list()
    said = texts["text"].fill_null("").to_list()
    concepts: list[int | None] = [None] * len(said)
    for name in texts["concept"].drop_nulls().unique(maintain_order=True):
        concept = concept_of(name, described.get(name, ()), embed)
        places = [place for place, of in enumerate(texts["concept"]) if of == name]
        for place, rating in zip(places, concept_ratings(concept, [said[place] for place in places], plain), strict=True):
            concepts[place] = rating
    measures = zip(said, texts["mean_nll"], texts["order_nats"], strict=True)
    rated = texts.with_columns(
        concept_rating=pl.Series(concepts, dtype=pl.UInt8),
        concept_log_odds=pl.lit(None, pl.Float64),
        instruction_rating=pl.lit(None, pl.UInt8),
        fluency_rating=pl.Series([fluency_rating(ranges, *of) for of in measures], dtype=pl.UInt8),
    )
    return judgements(rated, rates_blank)


def rate_beside_unsteered(
    texts: pl.DataFrame,
    unsteered: pl.DataFrame,
    embed: Embed,
    with_order_nats: Callable[[pl.DataFrame], pl.DataFrame],
    described: Callable[[int, str], Mapping[str, Sequence[str]]],
    rates_blank: bool = False,
) -> Iterator[pl.DataFrame]:
    """`rate` of texts of many layers and targets, a target beside its own unsteered texts; each frame is of one layer. `with_order_nats`
    measures what the order of words is worth: of TEXTS_AT_ONCE texts or more together, where it matters, of unsteered texts once.
    `described`: of a layer's target, what else describes a concept."""
    keys = ["layer", "target"]
    targets = texts.select(keys).unique(maintain_order=True)
    size = max(1, -(-TEXTS_AT_ONCE * targets.height // max(1, texts.height)))
    for some in targets.iter_slices(size):
        here, beside = (of.join(some, on=keys, how="semi", maintain_order="left") for of in (texts, unsteered))
        embed(texts_and_words(pl.concat([here["text"], beside["text"]]).drop_nulls().to_list()))  # known from then on
        plain = with_order_nats(beside).partition_by(keys, as_dict=True)
        ranges = {key: ranges_of(of_target) for key, of_target in plain.items()}
        cells = here.select(*keys, "text", "mean_nll").iter_rows()
        matters = [order_matters(ranges[layer, target], *measures) for layer, target, *measures in cells]
        measured = pl.concat(plain.values()).select(*TEXT_KEYS, "order_nats")
        to_measure = here.filter(pl.Series(matters, dtype=pl.Boolean))
        others = with_order_nats(to_measure.join(measured, TEXT_KEYS, how="anti", maintain_order="left"))
        orders = pl.concat([others.select(*TEXT_KEYS, "order_nats"), measured.join(to_measure, TEXT_KEYS, how="semi")])
        here = here.join(orders, TEXT_KEYS, how="left", maintain_order="left")
        rated = [
            rate(part, plain[key], ranges[key], embed, described(*key), rates_blank)
            for key, part in here.group_by(keys, maintain_order=True)
        ]
        yield from pl.concat(rated).partition_by("layer", maintain_order=True)
