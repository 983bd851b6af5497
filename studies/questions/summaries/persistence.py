"""Whether steering lasts: the concept rating of texts at the chosen factors, stretch by stretch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from saesteer.core.tables import COMPARED_CONCEPTS, FIT_TEXT, GENERATIONS, METHOD_SUMMARIES, of_fits
from saesteer.core.uncertainty import RATINGS, SCALES, of_differences
from saesteer.methods.compare.layers import at_every_layer
from saesteer.methods.compare.means import mean_over_concepts
from saesteer.methods.compare.protocol import FIT, prompt_halves
from saesteer.run import Run
from saesteer.settings.methods import MethodSettings
from saesteer.summaries.summary import Summary
from saesteer.world.judges import WorldJudge
from studies.questions.experiments import STRETCH_WORDS, writes_long_texts
from studies.questions.tables import PERSISTENCE

_MEASURES = ("concept_rating", "change", "capitals")


def held_out_texts(texts: pl.DataFrame, choices: pl.DataFrame, halves: Mapping[str, int]) -> pl.DataFrame:
    """Texts of the prompts reported on, each at the factor that the others chose (METHOD_CHOICES)."""
    chosen = choices.select(*FIT, "factor", half=pl.col("reported_on")).drop_nulls("factor")
    half = pl.col("prefix_id").replace_strict(dict(halves), return_dtype=pl.String)
    on_held_out_half = texts.with_columns(half=half).join(chosen, on=[*FIT, "factor", "half"], how="semi")
    same = texts.join(chosen.filter(half="all"), on=[*FIT, "factor"], how="semi")
    return pl.concat([on_held_out_half.drop("half"), same])


def persistence(rated: pl.DataFrame, methods: pl.DataFrame, settings: MethodSettings) -> pl.DataFrame:
    """Stretches of held-out texts (FIT_TEXT keys, stretch, concept_rating, capitals) and METHODS_TABLE -> PERSISTENCE: means over a
    concept's texts, then over concepts. Later stretches, which fewer than half of a method's concepts have, are left out. Not every text is
    as long, so `change` is text by text."""
    keys = list(PERSISTENCE.keys)
    first = rated.filter(stretch=1).select(*FIT_TEXT, first="concept_rating")
    changes = pl.col("concept_rating").cast(pl.Int16) - pl.col("first").cast(pl.Int16)
    of_texts = rated.join(first, on=FIT_TEXT, how="left").with_columns(change=changes)
    concepts = of_texts.group_by(*FIT, "stretch").agg(pl.len().alias("n_texts"), pl.col(_MEASURES).mean()).sort(*FIT, "stretch")
    in_all, with_stretch = pl.col("concept_id").n_unique().over("layer", "method"), pl.col("concept_id").n_unique().over(keys)
    concepts = concepts.filter(2 * with_stretch >= in_all)
    lines = []
    for group in concepts.sort(*keys, "concept_id").partition_by(keys, maintain_order=True):
        layer, key, stretch = group.select(keys).row(0)
        line = {"layer": layer, "method": key, "stretch": stretch, "n": group.height, "n_texts": group["n_texts"].sum()}
        for name in _MEASURES:
            line |= mean_over_concepts(name, group[name], settings, scale=of_differences(RATINGS) if name == "change" else SCALES.get(name))
        lines.append(line | {"confidence": settings.confidence})
    schema = {name: dtype for name, dtype in PERSISTENCE.schema.items() if name not in ("title", "family")}
    titles = methods.select("layer", "method", "title", "family")
    return pl.DataFrame(lines, schema=schema).join(titles, on=["layer", "method"], how="left").select(list(PERSISTENCE.columns)).sort(keys)


def stretch_ratings(texts: pl.DataFrame, judge: WorldJudge, topics: Sequence[str], size: int) -> pl.DataFrame:
    """Each text's whole stretches of `size` words, a row each: its other columns, stretch (from 1), concept_rating of the stretch by
    itself, and capitals, the share of its words that begin with a capital without beginning a sentence."""
    numbers = {name: number for number, name in enumerate(topics)}
    cut = [(row, *part) for row, text in enumerate(texts["text"].fill_null("").to_list()) for part in _stretches(text, size)]
    rows, stretches, parts, capitals = zip(*cut, strict=True) if cut else ((), (), (), ())
    concepts = texts["concept"].gather(list(rows)).to_list()
    ratings = [judge.concept(ids, numbers[name]) for name, ids in zip(concepts, judge.read(parts), strict=True)]
    return texts.drop("text")[list(rows)].with_columns(
        stretch=pl.Series(stretches, dtype=pl.UInt16),
        concept_rating=pl.Series(ratings, dtype=pl.UInt8),
        capitals=pl.Series(capitals, dtype=pl.Float64),
    )


def _stretches(text: str, size: int) -> Iterator[tuple[int, str, float]]:
    """Number from 1, text and share of capitals of each whole stretch of words."""
    words = text.split()
    begins = [True, *(word.rstrip("\"'”’)")[-1:] in tuple(".!?") for word in words)]  # a sentence, of each word
    capital = [word.lstrip("\"'“‘(")[:1].isupper() and not first for word, first in zip(words, begins, strict=False)]
    for number in range(len(words) // size):
        part = slice(number * size, (number + 1) * size)
        yield number + 1, " ".join(words[part]), sum(capital[part]) / size


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    settings = run.comparison.methods
    choices, methods = (run.summary(METHOD_SUMMARIES[name]) for name in ("method_choices", "methods"))
    concepts = run.summary(COMPARED_CONCEPTS).select("concept_id", "concept")
    texts = at_every_layer(of_fits(run.rows(GENERATIONS)), run.experiment.layers)
    texts = held_out_texts(texts, choices, prompt_halves(list(run.prompts()), settings.factor_choice))
    texts = texts.join(concepts, on="concept_id", how="left", maintain_order="left")
    rated = stretch_ratings(texts, run.world_judge(), run.topics(), STRETCH_WORDS)
    return {PERSISTENCE.name: persistence(rated, methods, settings)}


SUMMARY = Summary((PERSISTENCE,), writes_long_texts, compute)
