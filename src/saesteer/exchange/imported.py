"""What texts from elsewhere score under a comparison's protocol: tables, figures, and from what they were made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

import saesteer
from saesteer.core.errors import SettingsError
from saesteer.core.files import text_id, write_atomically, write_json
from saesteer.core.tables import write_summary
from saesteer.core.texts import RATING_COLUMNS
from saesteer.figures.definition import Options
from saesteer.figures.registry import FIGURES
from saesteer.figures.save import save_figure
from saesteer.figures.style import visible
from saesteer.methods.compare.summaries import imported_summaries, with_scores
from saesteer.methods.compare.tables import METHOD_CURVES, METHOD_SUMMARIES
from saesteer.run import Run
from saesteer.settings import EmbeddingJudge, IntervalSettings, OracleJudge, ProtocolSettings
from saesteer.sources.imported import AXBENCH, ImportedTexts, imported_texts
from saesteer.steps.generations import GENERATIONS

UNREADABLE_IS_0 = "AxBench's program writes 0 for an answer of its judge that it cannot read: such a rating counts as 0 here too"
_FIGURES = ("methods", "method_curves", "method_differences")


@dataclass(frozen=True)
class Import:
    """What texts from elsewhere are read under."""

    source: Path
    """A file, or a folder of P1's files."""
    layer: int
    """The layer of texts that name none."""
    protocol: Run | None
    """The comparison whose protocol holds; None: the defaults'."""
    judge: Run | None
    """The comparison whose judge rates the texts; None: the ratings are the file's."""


def import_texts(what: Import, folder: Path) -> Iterator[str]:
    """Write tables, figures and import.json to a folder; gives the lines to show."""
    texts = imported_texts(what.source, what.layer)
    if what.judge is None and texts.form == AXBENCH:
        texts = replace(texts, notes=(*texts.notes, UNREADABLE_IS_0))
    rated = _rated(texts, what.judge, what.source)
    settings: ProtocolSettings = what.protocol.comparison.methods if what.protocol else ProtocolSettings()
    tables = imported_summaries(rated, settings)
    for name, table in tables.items():
        if name != "methods":
            write_summary(METHOD_SUMMARIES[name], table, folder / f"tables/{name}.parquet")
    write_atomically(folder / "tables/methods.parquet", tables["methods"].write_parquet)
    write_atomically(folder / "texts.parquet", rated.write_parquet)
    drawn = tables | {name: _with_plain_titles(tables[name]) for name in ("methods", METHOD_CURVES.name)}
    for name in _FIGURES:
        data = FIGURES[name].data(drawn, Options("", IntervalSettings(confidence=settings.confidence)))
        save_figure(FIGURES[name].draw(data), data, folder / name)
    write_json(folder / "import.json", _provenance(texts, rated, what, settings))
    yield from _lines(texts, tables["methods"])
    yield f"wrote {folder}"


def _with_plain_titles(table: pl.DataFrame) -> pl.DataFrame:
    """Names from a file as they are: no line breaks, and no mathematics between dollar signs."""
    return table.with_columns(pl.col("title").map_elements(lambda title: visible(title).replace("$", r"\$"), pl.String))


def _rated(texts: ImportedTexts, judge: Run | None, source: Path) -> pl.DataFrame:
    """The texts with ratings, the file's or a judge's, and their score."""
    if judge is not None:
        return _by_judge(texts.rows, judge)
    if lacking := [name for name in ("concept_rating", "fluency_rating") if texts.rows[name].is_null().all()]:
        raise SettingsError(f"{source} has no {' and no '.join(lacking)}: name a comparison whose judge rates the texts (--judge)")
    return with_scores(texts.rows)


def _by_judge(texts: pl.DataFrame, run: Run) -> pl.DataFrame:
    """The texts with the ratings of a comparison's judge in place of the file's. Its answers and what they cost count as that
    experiment's."""
    from saesteer.steps.judge import ratings

    judge, prompts = run.comparison.judge, {text_id(prompt): prompt for prompt in texts["prompt"].unique()}
    if isinstance(judge, OracleJudge) and (unknown := sorted(set(texts["concept"]) - set(run.topics()))):
        raise SettingsError(f"the judge of {run.name} knows the topics of its world only, not {unknown[0]!r}: name another with --judge")
    if isinstance(judge, EmbeddingJudge):
        raise SettingsError(
            f"the judge of {run.name} is of kind embedding, which compares with the losses and unsteered texts of its own experiment: name"
            " another comparison with --judge"
        )
    ids = {prompt: prefix_id for prefix_id, prompt in prompts.items()}
    named = texts.with_columns(target=pl.col("concept"), prefix_id=pl.col("prompt").replace_strict(ids))
    reason = pl.when(pl.col("text").is_null()).then(pl.lit("the file has no text"))
    losses = named.select(*GENERATIONS.keys, mean_nll=pl.col("perplexity").log())
    frames = ratings(run, named.select(*GENERATIONS.keys, "text", "concept", reason=reason), losses, prompts, None)
    rated = pl.concat(frames).select(*GENERATIONS.keys, *(pl.col(name).cast(pl.Float64) for name in RATING_COLUMNS), "judge_score")
    joined = named.drop(RATING_COLUMNS).join(rated, on=GENERATIONS.keys, how="left", maintain_order="left")
    return joined.select(*(name for name in texts.columns), "judge_score")


def _provenance(texts: ImportedTexts, rated: pl.DataFrame, what: Import, settings: ProtocolSettings) -> dict[str, Any]:
    judge = what.judge.comparison.judge.model_dump(mode="json") | {"experiment": what.judge.name} if what.judge else "the file's ratings"
    return {
        "form": texts.form,
        "files": texts.digests,
        "read": texts.columns,
        "not_read": texts.unread,
        "notes": texts.notes,
        "imported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "saesteer": saesteer.__version__,
        "judge": judge,
        "protocol": settings.model_dump(mode="json", include={"score", "factor_choice", "bootstrap_draws", "confidence", "seed"})
        | {"factor_rule": "score"},
        "n_texts": rated["text"].count(),
        "n_unrated": rated.filter(pl.col("text").is_not_null())["judge_score"].null_count(),
    }


def _lines(texts: ImportedTexts, methods: pl.DataFrame) -> Iterator[str]:
    """What was read, and each method's score with its interval, the best first."""
    yield f"{texts.form}: {texts.rows['text'].count()} texts; not read: {', '.join(texts.unread) or 'nothing'}"
    yield from texts.notes
    for row in methods.sort("layer", "score", descending=[False, True], nulls_last=True).iter_rows(named=True):
        ends = "" if row["score_low"] is None else f" [{row['score_low']:.3f}, {row['score_high']:.3f}]"
        score = "no score" if row["score"] is None else f"{row['score']:.3f}{ends}"
        missing = f", {row['n_missing']} of {row['n_texts']} texts unrated" if row["n_missing"] else ""
        abstains = f", abstains for {row['n_abstaining']}" if row["n_abstaining"] else ""
        yield f"  layer {row['layer']}, {row['title']}: {score}, {row['n']} of {row['n_concepts']} concepts{abstains}{missing}"
