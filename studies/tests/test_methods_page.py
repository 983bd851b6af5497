"""The pages' tables of steering methods, from a comparison's tables that are kept and read again."""

import math
from pathlib import Path

import polars as pl
from drawn_figures import two_layers

from saesteer.core.tables import write_summary
from studies.pages import methods as page
from studies.pages.results import SNAPSHOTS, write_snapshot


def test_the_tables_show_what_is_kept_of_a_comparison(tmp_path: Path) -> None:
    tables = two_layers()
    (snapshot,) = [snapshot for snapshot in SNAPSHOTS if snapshot.experiment == page.COMPARISON]
    for name, table in snapshot.tables.items():
        assert not (tmp_path / snapshot.folder).exists()  # all tables or none
        write_summary(table, tables[name], tmp_path / f"data/{page.COMPARISON}/tables/{name}.parquet")
        write_snapshot(tmp_path, snapshot)
    methods, costs = tables["methods"], tables["method_equal_cost"]
    mean = {
        title: math.fsum(rows["score"]) / rows.height if rows["score"].null_count() == 0 else -math.inf
        for (title,), rows in methods.group_by("title", maintain_order=True)
    }
    _, _, *lines = page.scores_markdown(tmp_path).splitlines()
    shown = [line.split(" | ")[0].removeprefix("| ") for line in lines]
    assert sorted(shown) == sorted(mean)
    assert [round(mean[title], 4) for title in shown] == sorted((round(value, 4) for value in mean.values()), reverse=True)
    first = methods.filter(title=shown[0]).sort("layer").row(0, named=True)
    limited = costs.filter(title=shown[0], limit=page.SHOWN_LIMIT).sort("layer").row(0, named=True)
    damage = tables["method_damage"].filter(title=shown[0]).sort("layer")["loss_rise"].to_list()
    cells = [f"{row['score']:.2f} [{row['score_low']:.2f}, {row['score_high']:.2f}]" for row in (first, first, limited, limited)]
    assert lines[0] == "| " + " | ".join([shown[0], *cells, " / ".join(f"{rise:.2f}" for rise in damage)]) + " |"
    text = page.methods_markdown(tmp_path)
    assert f"over n = {first['n']} concepts, one training seed" in text
    made = (text, page.equal_cost_markdown(tmp_path), page.published_order_markdown(tmp_path))
    assert not any("None" in one or "nan" in one for one in made)
    assert made[1].count("Layer ") == 2


def test_methods_are_counted_that_one_is_told_apart_from() -> None:
    """By hand: b wins against a, and c's pairs are not told apart, however often it wins."""
    rows = [(3, "a", "b", 0.01, 0.0), (3, "a", "c", 0.2, 1.0), (3, "b", "c", 0.9, 0.5)]
    pairs = pl.DataFrame(rows, schema=["layer", "method", "other", "p_all_pairs", "win_rate"], orient="row")
    assert page.above_and_below(pairs, 0.95).sort("method").rows() == [(3, "a", 0, 1), (3, "b", 1, 0), (3, "c", 0, 0)]
