"""The comparisons of steering methods that git has: which tables and columns, and every method's score beside what it costs."""

from pathlib import Path

import polars as pl

from saesteer.core.tables import Table
from saesteer.methods.compare.tables import METHOD_DAMAGE, METHOD_DIFFERENCES, METHOD_EQUAL_COST, METHOD_SUMMARIES
from saesteer.site.method_pages import SHOWN_LIMIT

FOLDER = Path("docs/methods")
"""A file a table of TABLES: of the grammar's comparison, which commit 6a46392f computes; in a folder each of the public models'."""
METHODS = METHOD_SUMMARIES["methods"]
TABLES = (METHODS, METHOD_DIFFERENCES, METHOD_DAMAGE, METHOD_EQUAL_COST)


def _interval(name: str) -> tuple[str, str, str]:
    """A column and the ends of its interval."""
    return name, f"{name}_low", f"{name}_high"


_METHOD = ["layer", "method"]
_FITTED = ("learning_rate", "learning_rate_low", "learning_rate_high", "n_epochs")
_ENDS = ("share_at_rate_end", "share_at_smallest", "share_at_largest")
TABLE_COLUMNS = {
    METHODS.name: (
        "layer", "method", "title", "n", *_interval("score"), *_interval("rank"), "n_abstaining", "n_effect_vectors", "concept_rating",
        "fluency_rating", *_FITTED, *_ENDS,
    ),
    METHOD_DAMAGE.name: ("layer", "method", "loss_rise", "other_rating"),
    METHOD_EQUAL_COST.name: (
        "layer", "method", "title", "limit", *_interval("score"), "share_unsteered", *_interval("unlimited_score"),
        *_interval("rank_correlation"),
    ),
}  # fmt: skip
"""What of them is in git, where it is not all: of a method also how it was trained, and how often its choices lie at an end of a grid."""


def results(root: Path, table: Table, folder: Path) -> pl.DataFrame:
    """A table of a comparison that lies in git."""
    return pl.read_csv(root / folder / f"{table.name}.csv", infer_schema_length=None)


def scores_and_costs(root: Path, folder: Path) -> pl.DataFrame:
    """The methods with what each costs ordinary text, and its score at a limit on that (`limited`)."""
    names = dict(zip(_interval("limited"), _interval("score"), strict=True))
    limited = results(root, METHOD_EQUAL_COST, folder).filter(limit=SHOWN_LIMIT).select(*_METHOD, **names)
    costs = results(root, METHOD_DAMAGE, folder)
    with_costs = results(root, METHODS, folder).join(costs, on=_METHOD, how="left", maintain_order="left")
    return with_costs.join(limited, on=_METHOD, how="left", maintain_order="left")
