"""The tables of steering methods: every method at every layer, and beside AxBench's order."""

from collections import Counter
from pathlib import Path

import polars as pl

from saesteer.core.markdown import number
from saesteer.core.tables import Table
from saesteer.methods.compare.differences import told_apart
from saesteer.methods.compare.paper_values import P4, PAPER_VALUES
from saesteer.methods.compare.tables import METHOD_DAMAGE, METHOD_DIFFERENCES, METHOD_EQUAL_COST, METHOD_SUMMARIES
from saesteer.settings.methods import MethodSettings
from saesteer.settings.registry import method
from saesteer.site.method_pages import SHOWN_LIMIT
from saesteer.site.method_report import detectable_text
from studies.pages.tables import Column, Row, Rows, beside, best_first, every, last, markdown, text_of


def _interval(name: str) -> tuple[str, str, str]:
    """A column and the ends of its interval."""
    return name, f"{name}_low", f"{name}_high"


def _published_mean(rows: Rows) -> str:
    """AxBench's, with the number of its sites where it has some only."""
    sites = rows[0]["n_sites"]
    return number(rows[0]["published"], 3) + (f" ({sites} of {P4_SITES})" if sites < P4_SITES else "")


_METHOD = ["layer", "method"]
CONFIDENCE: float = MethodSettings.model_fields["confidence"].default
P4_SITES = 4
"""Models and layers of AxBench's table."""
COMPARISON = "tiny-methods"
FOLDER = Path("docs/methods")
"""A file a table of TABLES, in git."""
TABLES = METHODS_TABLE, DIFFERENCES, DAMAGE_TABLE, EQUAL_COST = (
    METHOD_SUMMARIES["methods"],
    METHOD_DIFFERENCES,
    METHOD_DAMAGE,
    METHOD_EQUAL_COST,
)
LOSSES = ("loss_rise", "other_rating")
"""Columns of METHOD_DAMAGE that are shown."""
_FITTED = ("learning_rate", "learning_rate_low", "learning_rate_high", "n_epochs")
_ENDS = ("share_at_rate_end", "share_at_smallest", "share_at_largest")
TABLE_COLUMNS = {
    METHODS_TABLE.name: (
        "layer", "method", "title", "n", *_interval("score"), *_interval("rank"), "n_abstaining", "n_effect_vectors", "concept_rating",
        "fluency_rating", *_FITTED, *_ENDS,
    ),
    DAMAGE_TABLE.name: ("layer", "method", *LOSSES),
    EQUAL_COST.name: (
        "layer", "method", "title", "limit", *_interval("score"), "share_unsteered", *_interval("unlimited_score"),
        *_interval("rank_correlation"),
    ),
}  # fmt: skip
"""What of them is in git, where it is not all: of a method also how it was trained, and how often its choices lie at an end of a grid."""
SCORES: dict[str, Column] = {"method": "title", "layer {layer}": "score ±"}
DAMAGE: dict[str, Column] = {
    "concept / fluency": last(beside(" / ", "concept_rating .2", "fluency_rating .2")),
    "loss rise": every("loss_rise .2"),
    "other topics": every("other_rating .2"),
    "above / below": every(beside(" / ", "n_above", "n_below"), ", "),
    "abstains": every("n_abstaining"),
}
PUBLISHED: dict[str, Column] = {
    "method": "title",
    "P4, mean of its sites": _published_mean,
    "here, layer {layer}": "score ±",
    "place in P4": "published_place",
    "place here": "place",
}


def results(root: Path, table: Table, folder: Path = FOLDER) -> pl.DataFrame:
    """A table of the comparison that lies in git."""
    return pl.read_csv(root / folder / f"{table.name}.csv", infer_schema_length=None)


def scores_markdown(root: Path) -> str:
    """Every method's score, without and with a limit on its damage, and what steering costs ordinary text: best first by the mean over
    layers."""
    at_limit: dict[str, Column] = {f"at most {SHOWN_LIMIT} nats, layer {{layer}}": "limited ±"}
    rows = scores_and_costs(root).to_dicts()
    return markdown(best_first("method", "score")(rows), "method", SCORES | at_limit | {"loss rise": DAMAGE["loss rise"]})


def scores_and_costs(root: Path, folder: Path = FOLDER) -> pl.DataFrame:
    """The methods with what each costs ordinary text, and its score at a limit on that (`limited`)."""
    limited = results(root, EQUAL_COST, folder).filter(limit=SHOWN_LIMIT)
    names = dict(zip(_interval("limited"), _interval("score"), strict=True))
    return _with_damage(root, folder).join(limited.select(*_METHOD, **names), on=_METHOD, how="left", maintain_order="left")


def _with_damage(root: Path, folder: Path = FOLDER) -> pl.DataFrame:
    """The methods with what each costs ordinary text."""
    costs = results(root, DAMAGE_TABLE, folder)
    return results(root, METHODS_TABLE, folder).join(costs, on=_METHOD, how="left", maintain_order="left")


def equal_cost_markdown(root: Path) -> str:
    """A table a layer: every method's score without and under each limit on its damage."""
    columns: dict[str, Column] = {"method": "title", "no limit": "unlimited_score ±", "≤ {limit} nats": _limited}
    parts = []
    for (layer,), of_layer in results(root, EQUAL_COST).partition_by("layer", as_dict=True).items():
        rho = of_layer.unique("limit").sort("limit").rows(named=True)
        shown = "; ".join(f"{row['limit']:g} nats: {text_of('rank_correlation ±', [row])}" for row in rho)
        cells = markdown(best_first("method", "unlimited_score")(of_layer.to_dicts()), "method", columns)
        parts += [f"Layer {layer}:", cells, f"Rank correlation with the order without a limit, over methods: {shown}."]
    return "\n\n".join(parts)


def _limited(rows: Rows) -> str:
    share = rows[0]["share_unsteered"]
    return text_of("score ±", rows) + (f", {share:.0%} unsteered" if share else "")


def methods_markdown(root: Path) -> str:
    """A line a method, best first by its mean over layers."""
    pairs = results(root, DIFFERENCES)
    methods = _with_damage(root).join(above_and_below(pairs, CONFIDENCE), on=_METHOD, how="left", maintain_order="left")
    return f"{markdown(best_first('method', 'score')(methods.to_dicts()), 'method', SCORES | DAMAGE)}\n\n{_note(methods, pairs)}"


def above_and_below(pairs: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """METHOD_DIFFERENCES -> layer, method, n_above and n_below: how many others it is told apart from among all pairs of the layer."""
    above, below = (told_apart(confidence) & is_so for is_so in (pl.col("win_rate") > 0.5, pl.col("win_rate") < 0.5))
    one_way = pairs.select(*_METHOD, above.alias("n_above"), below.alias("n_below"))
    other_way = pairs.select("layer", method="other", n_above=below, n_below=above)
    return pl.concat([one_way, other_way]).group_by(_METHOD).agg(pl.col("n_above", "n_below").sum())


def _note(methods: pl.DataFrame, pairs: pl.DataFrame) -> str:
    n, layers = methods["n"][0], methods["layer"].unique().sort().to_list()
    at = {layer: (methods.filter(layer=layer)["n_above"].sum(), pairs.filter(layer=layer).height) for layer in layers}
    apart = ", ".join(f"{n_apart} of {n_pairs} at layer {layer}" for layer, (n_apart, n_pairs) in at.items())
    vectors = methods["n_effect_vectors"].drop_nulls()
    return (
        f"Mean [95 %] over n = {n} concepts, one training seed. Ratings at layer {layers[-1]}. Loss rise: what steering at the chosen "
        "factors adds to the loss on ordinary text, nats a token; other topics: mean rating of all topics but the concept. Above / below: "
        "than how many other methods it scores higher / lower on more concepts than not, by an exact sign test of all pairs of the layer "
        f"together ({apart}). Abstains: concepts of {n}. A difference of {detectable_text(pairs)}, by pair, is seen with probability .8."
    ) + (f"\nSAE-TS and FGAA: their approximator is fitted on {vectors.to_list()[0]:,} vectors (P2: 50,000)." if len(vectors) else "")


def published_order_markdown(root: Path) -> str:
    """The methods that AxBench's table has, in its order, beside the results here: both scores are harmonic means of 0 to 2."""
    return markdown(_published(results(root, METHODS_TABLE)), "method", PUBLISHED)


def _published(methods: pl.DataFrame) -> list[Row]:
    """Rows of methods with their mean in AxBench's table and their places there and here, best there first."""
    values: dict[str, list[float]] = {}
    sites: Counter[str] = Counter()
    for figure in PAPER_VALUES:
        if figure.source == P4:
            values.setdefault(method(figure.method).key, []).append(figure.value)
            sites[method(figure.method).key] += 1 if figure.protocol.layer else P4_SITES  # a mean of all sites has no layer
    published = {key: sum(figures) / len(figures) for key, figures in values.items()}
    rows = methods.filter(pl.col("method").is_in(list(published))).drop_nulls("score").to_dicts()
    order_here = list(dict.fromkeys(row["method"] for row in best_first("method", "score")(rows)))
    order_there = [key for key in sorted(published, key=lambda key: -published[key]) if key in order_here]
    return [
        {
            **row,
            "published": published[key],
            "n_sites": sites[key],
            "published_place": order_there.index(key) + 1,
            "place": order_here.index(key) + 1,
        }
        for key in order_there
        for row in rows
        if row["method"] == key
    ]
