"""A page on which a person rates texts by keyboard, without a network, and without being told what steered them or how they were rated.

It puts the judge's own questions (judge.rubric). What it holds of a text: a digest, the concept, the prompt and the text.
"""

import base64
import hashlib
import re
from importlib import resources
from typing import Any

import polars as pl

from saesteer.core.errors import SettingsError
from saesteer.core.files import value_digest
from saesteer.core.uncertainty import random_stream
from saesteer.judge.rubric import CRITERIA, Aspect
from saesteer.methods.compare.protocol import UNSTEERED
from saesteer.run import Run
from saesteer.settings import Comparison
from saesteer.settings.registry import method
from saesteer.site.pieces import as_json
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.steps.features import FEATURES
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS

ASPECTS: tuple[Aspect, ...] = ("concept", "fluency")
RATINGS = ("concept_rating", "fluency_rating")


def check_rated(run: Run) -> None:
    """Refuse an experiment without a judge."""
    if not run.steering.is_rated:
        raise SettingsError(f"{run.name} has no judge (judge.kind none), so none of its texts is rated: name an experiment with one")


def rated_texts(run: Run) -> pl.DataFrame:
    """The texts that the experiment's judge rated for a concept, sorted by the keys of GENERATIONS: text, concept, RATINGS and `id`, a
    digest of keys, text and concept, by which a text that was made anew is another one."""
    from saesteer.analysis.concepts import with_concept

    check_rated(run)
    concepts = run.summary(COMPARED_CONCEPTS if isinstance(run.experiment, Comparison) else FEATURES)
    judged = run.rows(JUDGEMENTS, columns=RATINGS).drop_nulls(RATINGS)
    texts = run.rows(GENERATIONS, columns=["text"]).join(judged, on=GENERATIONS.keys)
    texts = with_concept(texts, concepts).drop_nulls(["text", "concept"]).sort(GENERATIONS.keys)
    if texts.is_empty():
        raise SettingsError(f"{run.data} holds no text that the judge rated for a concept: name an experiment with concepts and a judge")
    ids = [value_digest(row)[:16] for row in texts.select(*GENERATIONS.keys, "text", "concept").iter_rows()]
    return texts.with_columns(id=pl.Series(ids))


def drawn(texts: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """At most n of `rated_texts` in random order: as many of each concept rating as can be, and of each rating as many unsteered ones and
    ones of each place in a feature's or a fit's factors as can be."""
    factor = pl.col("factor").cast(pl.Float64)
    unsteered = (pl.col("method") == method(UNSTEERED).key) | (factor == 0)
    strength = pl.when(unsteered).then(0).otherwise(factor.rank("dense").over("method", "layer", "target"))
    draw = random_stream(seed, "rating sheet").permutation(texts.height)
    shuffled = texts.with_columns(draw=pl.Series(draw), strength=strength).sort("draw")
    by_strength = shuffled.with_columns(turn=pl.int_range(pl.len()).over("concept_rating", "strength")).sort("turn", "draw")
    by_rating = by_strength.with_columns(turn=pl.int_range(pl.len()).over("concept_rating")).sort("turn", "draw")
    return by_rating.head(n).sort("draw").drop("turn", "draw")


def sheet_html(run: Run, n: int, seed: int) -> str:
    """The page, one file."""
    texts, prompts = drawn(rated_texts(run), n, seed), run.prompts_if_any()
    if unknown := set(texts["prefix_id"]) - set(prompts):
        raise SettingsError(f"{len(unknown)} of the prompts of {run.name}'s texts are no longer in {run.prompts_path}: run it again")
    rows = [[row["id"], row["concept"], prompts[row["prefix_id"]], row["text"]] for row in texts.iter_rows(named=True)]
    sheet = {"experiment": run.name, "questions": [_question(aspect) for aspect in ASPECTS], "texts": rows}
    page, style, script = (
        resources.files(__package__).joinpath(f"sheet.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    page = page.replace("@STYLE_DIGEST@", _digest(style)).replace("@SCRIPT_DIGEST@", _digest(script))
    return page.replace("@STYLE@", style).replace("@SCRIPT@", script).replace("@SHEET@", as_json(sheet))


def _question(aspect: Aspect) -> dict[str, Any]:
    """The judge's question about an aspect, and what each rating means, from 0 on."""
    question, *options = re.split(r"\n[012]: ", CRITERIA[aspect])
    return {"aspect": aspect, "question": " ".join(question.split()), "options": options}


def _digest(text: str) -> str:
    """By which a Content-Security-Policy knows an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
