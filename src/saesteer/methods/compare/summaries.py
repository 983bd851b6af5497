"""Every summary table of a comparison of methods: of the workflow's rows, and of texts from elsewhere under the same protocol."""

from collections.abc import Sequence

import polars as pl

from saesteer.analysis.repeats import without_repeats
from saesteer.analysis.score import harmonic_mean
from saesteer.core.files import text_id
from saesteer.core.texts import FIT_TEXT, RATING_COLUMNS
from saesteer.methods.compare.means import ELSEWHERE, family_of, held_out_means, method_curves, method_differences, methods_table
from saesteer.methods.compare.paper_values import Protocol, published_beside_ours
from saesteer.methods.compare.protocol import FIT, ProtocolError, Rows, prompt_halves, scored
from saesteer.methods.compare.tables import METHOD_CURVES, METHOD_DIFFERENCES, METHOD_PUBLISHED, METHODS_TABLE
from saesteer.settings import BestFactorSettings, ProtocolSettings
from saesteer.settings.methods import MethodSettings
from saesteer.settings.registry import METHODS
from saesteer.sources.concept_tables import COMPARED_CONCEPTS

ABSTAINS = "the file has no text of this method and concept"


def method_summaries(
    rows: Rows, prefix_ids: Sequence[str], settings: MethodSettings, best_factor: BestFactorSettings, protocols: dict[int, Protocol]
) -> dict[str, pl.DataFrame]:
    """METHOD_SUMMARIES by name. `prefix_ids` are the prompts', in their file's order; `protocols` is paper_values.our_protocol by layer."""
    tables = scored(rows, prompt_halves(prefix_ids, settings.factor_choice), settings, best_factor)
    halves, choices, scores = tables.values()
    methods = methods_table(scores, choices, rows, settings)
    return tables | {
        METHODS_TABLE.name: methods,
        METHOD_DIFFERENCES.name: method_differences(scores, settings),
        METHOD_CURVES.name: method_curves(halves, choices, methods, settings),
        METHOD_PUBLISHED.name: published_beside_ours(methods, scores, protocols, settings),
    }


def with_scores(texts: pl.DataFrame) -> pl.DataFrame:
    """Texts with `judge_score`, the harmonic mean of their ratings; of concept and fluency where no text's instruction is rated."""
    names = RATING_COLUMNS if texts["instruction_rating"].is_not_null().any() else ("concept_rating", "fluency_rating")
    return texts.with_columns(judge_score=harmonic_mean(names))


def without_imported_repeats(texts: pl.DataFrame, settings: ProtocolSettings) -> pl.DataFrame:
    """Texts (exchange.imported.TEXTS) with a judge_score of 0 where they repeat other prompts' (analysis.repeats)."""
    numbered = texts.with_columns(prefix_id=pl.col("number").cast(pl.String))
    return without_repeats(numbered, ["layer", "method", "concept", "factor"], _imported_halves(texts, settings)).drop("prefix_id")


def _imported_halves(texts: pl.DataFrame, settings: ProtocolSettings) -> dict[str, int]:
    """The half of each prompt, by its number: of each concept's own."""
    return prompt_halves([str(number) for number in texts["number"].unique().sort()], settings.factor_choice)


def imported_scores(texts: pl.DataFrame, settings: ProtocolSettings) -> dict[str, pl.DataFrame]:
    """Texts (exchange.imported.TEXTS) with judge_score -> METHOD_HALVES, METHOD_CHOICES and METHOD_SCORES by name.

    A method whose texts of a concept are all null abstains there.
    """
    halves = _imported_halves(texts, settings)
    _refuse_gaps(texts, halves)
    return scored(_rows(texts), halves, settings, BestFactorSettings())


def imported_summaries(texts: pl.DataFrame, settings: ProtocolSettings) -> dict[str, pl.DataFrame]:
    """These and the other tables of a comparison, by name, as far as texts and ratings make them; of `methods` it is the columns of
    held_out_means, with title and family."""
    tables = imported_scores(texts, settings)
    halves, choices, scores = tables.values()
    registered = {row.key: (row.title, family_of(row)) for row in METHODS}
    named = [(key, *registered.get(key, (key, ELSEWHERE))) for key in scores["method"].unique()]
    names = pl.DataFrame(named, schema=["method", "title", "family"], orient="row")
    methods = held_out_means(scores, choices, settings).join(names, on="method").sort("layer", "method")
    return tables | {
        METHOD_DIFFERENCES.name: method_differences(scores, settings),
        METHOD_CURVES.name: method_curves(halves, choices, methods, settings),
        "methods": methods,
    }


def _rows(texts: pl.DataFrame) -> Rows:
    """The texts as rows of a comparison: what is not known of the fits is null."""
    ids = {concept: text_id(concept) for concept in texts["concept"].unique()}
    keyed = texts.with_columns(concept_id=pl.col("concept").replace_strict(ids), prefix_id=pl.col("number").cast(pl.String))
    keys, unknown = list(FIT_TEXT), pl.lit(None, pl.Float64)
    fits = keyed.group_by(FIT).agg(kind=pl.when(pl.col("text").is_not_null().any()).then(pl.lit("imported")))
    reason = pl.when(pl.col("kind").is_null()).then(pl.lit(ABSTAINS))
    concepts = keyed.select("concept_id", "concept").unique().with_columns(label_feature=pl.lit(None, pl.UInt32))
    return Rows(
        texts=keyed.select(*keys, "text"),
        perplexity=keyed.select(*keys, mean_nll=pl.col("perplexity").log(), whole_text_nll=unknown),
        judgements=keyed.select(*keys, *RATING_COLUMNS, "judge_score", concept_log_odds=unknown),
        fits=fits.with_columns(reason=reason, residual_change=unknown, residual_norm=unknown),
        concepts=concepts.select(list(COMPARED_CONCEPTS.columns)),
    )


def _refuse_gaps(texts: pl.DataFrame, split: dict[str, int]) -> None:
    """Every method has texts of a concept at the same factors in both halves."""
    place = ["layer", "method", "concept", "factor"]
    half = pl.col("number").cast(pl.String).replace_strict(split)
    written = texts.filter(pl.col("text").is_not_null().any().over("layer", "method", "concept"))
    gaps = written.group_by(place).agg(n=half.n_unique()).filter(pl.col("n") < len(set(split.values()))).sort(place)
    if gaps.height:
        raise ProtocolError(
            f"{gaps.select(place).row(0, named=True)}: there are texts for prompts of one half only, and each half reports at the factor"
            " that the other chose: add the missing ones, or leave this factor out"
        )
