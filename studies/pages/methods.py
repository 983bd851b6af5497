"""The tables of steering methods: every method at every layer, over the world's seeds, and beside AxBench's order."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from saesteer.core.files import write_text
from saesteer.core.markdown import number
from saesteer.core.tables import METHOD_DAMAGE, METHOD_EQUAL_COST_SCORES, METHOD_SUMMARIES, Table
from saesteer.methods.compare.paper_values import P4, PAPER_VALUES
from saesteer.report.method_report import detectable_text
from saesteer.report.site.method_pages import SHOWN_LIMIT
from saesteer.settings.methods import MethodSettings
from saesteer.settings.registry import method
from studies.pages.pooled import LOSSES, RATINGS, pooled_equal_cost, pooled_methods
from studies.pages.tables import Column, Row, Rows, beside, best_first, every, last, markdown, text_of


def _interval(name: str) -> tuple[str, str, str]:
    """A column and the ends of its interval."""
    return name, f"{name}_low", f"{name}_high"


def _published_mean(rows: Rows) -> str:
    """AxBench's, with the number of its sites where it has some only."""
    sites = rows[0]["n_sites"]
    return number(rows[0]["published"], 3) + (f" ({sites} of {P4_SITES})" if sites < P4_SITES else "")


P4_SITES = 4
"""Models and layers of AxBench's table."""
POOLED_FILES = MEANS, DIFFERENCES, EQUAL_COST = "methods.csv", "differences.csv", "equal_cost.csv"
"""Of a comparison's folder: the results over seeds."""
TABLES = (METHOD_SUMMARIES["method_scores"], METHOD_SUMMARIES["methods"], METHOD_DAMAGE, METHOD_EQUAL_COST_SCORES)
"""Tables of each seed that the results are computed from, in a folder a seed beside them."""
POOLED_COLUMNS = {
    "method_scores": ("layer", "method", "concept_id", "concept", "score"),
    "methods": ("layer", "method", "title", "score", "n_abstaining", "n_effect_vectors", *RATINGS),
    "method_damage": ("layer", "method", *LOSSES),
    "method_equal_cost_scores": ("layer", "method", "limit", "concept_id", "score", "abstains"),
}
"""What of them is pooled."""
FITTED = ("surviving_score", "learning_rate", "learning_rate_low", "learning_rate_high", "n_epochs")
ENDS = ("share_at_rate_end", "share_at_smallest", "share_at_largest")
TABLE_COLUMNS = POOLED_COLUMNS | {"methods": (*POOLED_COLUMNS["methods"], *FITTED, *ENDS)}
"""What of them is in git: besides, how each method was trained, and how often its choices lie at an end of a grid."""
SCORES: dict[str, Column] = {"method": "title", "layer {layer}": "score ±"}
SEEDS: dict[str, Column] = {"seeds, layer {layer}": lambda rows: " ".join(number(rows[0][name]) for name in _seeds(rows))}
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


def pool_results(seeds: Sequence[Path], settings: MethodSettings, folder: Path) -> None:
    """Pool the results in git of the world's seeds, in order."""

    def of_seeds(which: Table) -> list[pl.DataFrame]:
        schema = {name: which.schema[name] for name in POOLED_COLUMNS[which.name]}
        return [pl.read_csv(seed / f"{which.name}.csv", columns=list(schema), schema_overrides=schema) for seed in seeds]

    scores, methods, damage, at_equal_cost = map(of_seeds, TABLES)
    means, differences = pooled_methods(scores, methods, damage, settings)
    tables = (means, differences, pooled_equal_cost(at_equal_cost, means, settings))
    for name, rows in zip(POOLED_FILES, tables, strict=True):
        write_text(folder / name, rows.write_csv(float_precision=4))


def scores_markdown(folder: Path) -> str:
    """Every method's score over seeds, without and with a limit on its damage, and what steering costs ordinary text: best first by the
    mean over layers."""
    rows, limited = pl.read_csv(folder / MEANS), pl.read_csv(folder / EQUAL_COST).filter(limit=SHOWN_LIMIT)
    names = dict(zip(_interval("limited"), _interval("score"), strict=True))
    joined = rows.join(limited.select("layer", "method", **names), on=["layer", "method"], how="left", maintain_order="left").to_dicts()
    at_limit: dict[str, Column] = {f"at most {SHOWN_LIMIT} nats, layer {{layer}}": "limited ±"}
    return markdown(best_first("method", "score")(joined), "method", SCORES | at_limit | {"loss rise": DAMAGE["loss rise"]})


def equal_cost_markdown(folder: Path) -> str:
    """A table a layer: every method's score without and under each limit on its damage."""
    columns: dict[str, Column] = {"method": "title", "no limit": "unlimited_score ±", "≤ {limit} nats": _limited}
    parts = []
    for (layer,), of_layer in pl.read_csv(folder / EQUAL_COST).partition_by("layer", as_dict=True).items():
        rho = of_layer.unique("limit").sort("limit").rows(named=True)
        shown = "; ".join(f"{row['limit']:g} nats: {text_of('rank_correlation ±', [row])}" for row in rho)
        cells = markdown(best_first("method", "unlimited_score")(of_layer.to_dicts()), "method", columns)
        parts += [f"Layer {layer}:", cells, f"Rank correlation with the order without a limit, over methods: {shown}."]
    return "\n\n".join(parts)


def _limited(rows: Rows) -> str:
    share = rows[0]["share_unsteered"]
    return text_of("score ±", rows) + (f", {share:.0%} unsteered" if share else "")


def methods_markdown(folder: Path) -> str:
    """The results over seeds: a line a method, best first by its mean over layers."""
    methods, pairs = (pl.read_csv(folder / name) for name in (MEANS, DIFFERENCES))
    rows = methods.to_dicts()
    columns = SCORES | (SEEDS if len(_seeds(rows)) > 1 else {}) | DAMAGE
    return f"{markdown(best_first('method', 'score')(rows), 'method', columns)}\n\n{_note(methods, pairs, len(_seeds(rows)))}"


def _seeds(rows: Rows) -> list[str]:
    return [name for name in rows[0] if name.startswith("seed_")]


def _note(rows: pl.DataFrame, pairs: pl.DataFrame, n_seeds: int) -> str:
    n, layers = rows["n"][0], rows["layer"].unique().sort().to_list()
    at = {layer: (rows.filter(layer=layer)["n_above"].sum(), pairs.filter(layer=layer).height) for layer in layers}
    apart = ", ".join(f"{n_apart} of {n_pairs} at layer {layer}" for layer, (n_apart, n_pairs) in at.items())
    vectors = rows["n_effect_vectors"].drop_nulls()
    of_seeds = f", each the mean of {n_seeds} training seeds; seeds: each one's own mean" if n_seeds > 1 else ", one training seed"
    return (
        f"Mean [95 %] over n = {n} concepts{of_seeds}. Ratings at layer "
        f"{layers[-1]}. Loss rise: what steering at the chosen factors adds to the loss on ordinary text, nats a token; other topics: mean "
        "rating of all topics but the concept. Above / below: than how many other methods it scores higher / lower on more concepts than "
        f"not, by an exact sign test of all pairs of the layer together ({apart}). Abstains: concepts of {n * n_seeds}. A difference of "
        f"{detectable_text(pairs)}, by pair, is seen with probability .8."
    ) + (f"\nSAE-TS and FGAA: their approximator is fitted on {vectors.to_list()[0]:,} vectors (P2: 50,000)." if len(vectors) else "")


def published_order_markdown(folder: Path) -> str:
    """The methods that AxBench's table has, in its order, beside the results here: both scores are harmonic means of 0 to 2."""
    return markdown(_published(pl.read_csv(folder / MEANS)), "method", PUBLISHED)


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
