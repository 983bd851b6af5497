"""The figures of the methods' comparison: what is drawn is the tables."""

import numpy as np
import polars as pl
import pytest
from drawn_figures import comparison, drawn, method_tables, two_layers
from matplotlib.axes import Axes
from method_rows import LAYER

from saesteer.figures.method_curves import N_SHOWN
from saesteer.figures.style import LOOKS
from saesteer.methods.compare.damage import LIMITS
from saesteer.methods.compare.means import ELSEWHERE

FEW = ("unsteered", "sae_label", "diffmean", "prompting", "lora", "sae_ts")


def line(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of a labelled line."""
    (one,) = (line for line in axes.lines if line.get_label() == label)
    return np.asarray(one.get_xdata(), dtype=float), np.asarray(one.get_ydata(), dtype=float)


def segments(axes: Axes) -> set[tuple[float, ...]]:
    """Ends of every straight bar drawn, rounded: x0, y0, x1, y1."""
    return {
        tuple(np.round(np.asarray(path).ravel(), 9).tolist())
        for collection in axes.collections
        if hasattr(collection, "get_segments")
        for path in collection.get_segments()
        if len(path) == 2
    }


def test_every_method_is_drawn_at_its_score_best_first() -> None:
    _, figure = drawn("methods")
    (axes,) = figure.axes
    bars = segments(axes)
    ordered = comparison()["methods"].sort("score", descending=True)
    assert [tick.get_text().split(" (")[0] for tick in axes.get_yticklabels()] == [title.split(" (")[0] for title in ordered["title"]]
    assert axes.yaxis_inverted()
    n_hollow = 0
    for place, row in enumerate(ordered.iter_rows(named=True)):
        x, y = line(axes, f"score/{row['method']}/{LAYER}")
        assert (x.item(), y.item()) == (row["score"], place)
        assert tuple(np.round((row["score_low"], place, row["score_high"], place), 9).tolist()) in bars
        hollow = [one for one in axes.lines if one.get_label() == f"surviving/{row['method']}/{LAYER}"]
        assert len(hollow) == (row["n_abstaining"] > 0)
        if hollow:
            assert hollow[0].get_xdata()[0] == row["surviving_score"]
            assert hollow[0].get_markerfacecolor() == "none"
            assert f"({row['n_abstaining']} abstain)" in axes.get_yticklabels()[place].get_text()
            n_hollow += 1
    assert n_hollow > 3
    assert set(line(axes, "unsteered")[0]) == {ordered.filter(method="unsteered")["score"].item()}


def test_curves_draw_every_factor_of_the_best_of_each_family() -> None:
    data, figure = drawn("method_curves")
    curves = comparison()["method_curves"].with_columns(pl.col("factor").cast(pl.Float64))
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert list(panels) == [family for family in LOOKS if family != ELSEWHERE]
    for family, axes in panels.items():
        best = comparison()["methods"].filter(family=family).sort("score", descending=True).head(N_SHOWN)
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            one.get_label() for one in axes.lines if not str(one.get_label()).startswith("_")
        ]
        assert len(axes.get_legend().get_texts()) == best.height
        for key, title in best.select("method", "title").iter_rows():
            curve = curves.filter(method=key).sort("factor")
            (label,) = (one.get_label() for one in axes.lines if str(one.get_label()).startswith(f"{title} (n = "))
            x, y = line(axes, label)
            np.testing.assert_array_equal(x, curve["fluency_rating"].to_numpy())
            np.testing.assert_array_equal(y, curve["concept_rating"].to_numpy())
            point = curve.row(0, named=True)
            bar = (point["fluency_rating"], point["concept_rating_low"], point["fluency_rating"], point["concept_rating_high"])
            assert tuple(np.round(bar, 9).tolist()) in segments(axes)
        unsteered = curves.filter(method="unsteered")
        assert line(axes, "_unsteered")[1].item() == unsteered["concept_rating"].item()
    assert data["method"].n_unique() == sum(min(N_SHOWN, group.height) for group in comparison()["methods"].partition_by("family"))


def test_differences_are_row_minus_column() -> None:
    few = method_tables(14, methods=FEW)
    _, figure = drawn("method_differences", few)
    axes = figure.axes[0]
    titles = [tick.get_text() for tick in axes.get_yticklabels()]
    ordered = few["methods"].sort("score", descending=True)
    assert titles == [tick.get_text() for tick in axes.get_xticklabels()] == ordered["title"].to_list()
    scores = ordered["score"].to_numpy()
    matrix = np.ma.filled(axes.collections[0].get_array(), np.nan)
    expected = scores[:, None] - scores[None, :]  # no concept is missing here
    np.fill_diagonal(expected, np.nan)
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    differences, n_sure = few["method_differences"], []
    for name, is_apart in (("low", (pl.col("low") > 0) | (pl.col("high") < 0)), ("p_all_pairs", pl.col("p_all_pairs") < 0.05)):
        x, y = line(axes, name)
        place = {key: number for number, key in enumerate(ordered["method"])}
        sure = differences.filter(is_apart)
        pairs = {(place[a], place[b]) for a, b in sure.select("method", "other").iter_rows()}
        assert set(zip(x.astype(int), y.astype(int), strict=True)) == pairs | {(b, a) for a, b in pairs}
        n_sure.append(len(pairs))
    assert 0 < n_sure[1] < n_sure[0]


def test_layers_of_the_methods_have_one_panel_and_a_marker_each() -> None:
    """A method's layers stand in one row, apart; methods are in the order of their mean."""
    higher = {"methods": two_layers()["methods"].with_columns(pl.col("score") + 0.1 * (pl.col("layer") == 9))}
    _, figure = drawn("methods", higher)
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "layers 5 and 9"
    ordered = comparison()["methods"].sort("score", descending=True)
    for place, row in enumerate(ordered.iter_rows(named=True)):
        found = [one for one in axes.lines if str(one.get_label()).startswith(f"score/{row['method']}/")]
        assert len({one.get_marker() for one in found}) == 2
        np.testing.assert_allclose([one.get_xdata()[0] for one in found], [row["score"], row["score"] + 0.1])
        np.testing.assert_allclose([one.get_ydata()[0] for one in found], [place - 0.25, place + 0.25])
    assert {"layer 5", "layer 9"} <= {text.get_text() for text in figure.legends[0].get_texts()}


@pytest.mark.slow
def test_two_layers_have_panels_of_their_own() -> None:
    _, figure = drawn("method_differences", two_layers())
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_label() != "<colorbar>"] == ["layer 5", "layer 9"]
    _, figure = drawn("method_curves", two_layers())
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison][:2] == ["layer 5: Controls", "layer 5: Prompt"]


def test_damage_is_drawn_at_its_place_and_the_frontier_climbs() -> None:
    data, figure = drawn("method_damage")
    (axes,) = figure.axes
    for row in comparison()["method_damage"].iter_rows(named=True):
        x, y = line(axes, row["method"])
        assert (x.item(), y.item()) == (row["loss_rise"], row["score"])
    best = data.filter("frontier")
    assert best["score"].is_sorted()
    beaten = [
        any(other["loss_rise"] <= row["loss_rise"] and other["score"] > row["score"] for other in data.iter_rows(named=True))
        for row in data.iter_rows(named=True)
    ]
    assert not any(one for one, on in zip(beaten, data["frontier"], strict=True) if on)
    assert {note.get_text() for note in axes.texts} == set(best["title"])


def test_a_score_under_a_limit_is_drawn_over_the_score_without_one_and_the_note_says_how_the_orders_agree() -> None:
    data, figure = drawn("method_equal_cost")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [f"≤ {limit:g} nats" for limit in LIMITS]
    note = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    for limit, axes in zip(LIMITS, figure.axes, strict=True):
        of_limit = data.filter(limit=limit)
        for row in of_limit.iter_rows(named=True):
            x, y = line(axes, row["method"])
            assert (x.item(), y.item()) == (row["unlimited_score"], row["score"])
        best = of_limit.sort("score", "method", descending=[True, False]).row(0, named=True)
        assert f"{limit:g}: {best['rank_correlation']:.2f} [" in note
        assert f"], {best['title']}" in note
