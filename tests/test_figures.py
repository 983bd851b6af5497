"""The figures of the main job: what is drawn is the data."""

import re
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from drawn_figures import FIGURES, OPTIONS, assert_same, data_of, drawn, sample, sweep, thin
from matplotlib.figure import Figure
from matplotlib.text import Text
from workflow_folder import ROOT

from saesteer.figures.definition import banded, where_something_changes
from saesteer.figures.save import save_drawing
from saesteer.figures.style import BLUE, MAGENTA
from saesteer.settings import load_experiment
from saesteer.workflow.job import figure_options


def lines(figure: Figure, panel: int, label: str) -> np.ndarray:
    """The y values of a labelled line."""
    (line,) = (line for line in figure.axes[panel].lines if line.get_label() == label)
    return np.asarray(line.get_ydata(), dtype=float)


def test_roles_draws_medians_of_every_layer_and_counts_each_score_apart() -> None:
    data, figure = drawn("roles")
    assert data.height == 8
    for score, colour in (("input_score", BLUE), ("output_score", MAGENTA)):
        of_layers = sweep()["features"].group_by("layer").agg(pl.col(score).median(), n=pl.col(score).count()).sort("layer")
        np.testing.assert_allclose(lines(figure, 0, score.replace("_", " ")), of_layers[score].to_numpy())
        assert [text.get_text() for text in figure.axes[0].texts if text.get_color() == colour] == [*map(str, of_layers["n"]), "n"]
    assert data["n_without_input_score"].sum() == sweep()["features"]["input_score"].null_count() > 0


def test_scatters_draw_every_feature_that_has_both_values() -> None:
    data, figure = drawn("input_vs_output")
    offsets = np.asarray(figure.axes[0].collections[0].get_offsets())
    assert len(offsets) == data["input_score"].count() == 240 - data["input_score"].null_count()
    counts = [int(text.get_text().removeprefix("n = ")) for text in figure.axes[0].texts]
    assert sum(counts) == len(offsets)
    data, figure = drawn("output_score_vs_outcome")
    assert figure.get_supxlabel().startswith("n = 240 features; 117 have a judge score, 123 have none.")
    for panel, measure in enumerate(("net_gen_success_20", "gen_success_20", "judge_score")):
        values = sweep()["outcomes"].filter(rule="capped").sort("layer", "feature")[measure].drop_nulls()
        np.testing.assert_array_equal(np.asarray(figure.axes[panel].collections[0].get_offsets())[:, 1], values.to_numpy())


def test_curves_draw_every_threshold_at_which_something_changes() -> None:
    data, figure = drawn("gen_success_by_threshold")
    for panel, (measure, layers) in enumerate(product(("net_gen_success_20", "gen_success_20"), ("all", "late"))):
        curve = data.filter(measure=measure, layers=layers)
        assert_same(lines(figure, panel, "kept by output score"), curve["mean"])
        assert_same(lines(figure, panel, "as many removed at random"), curve["random_mean"])
        assert len(figure.axes[panel].get_xticks()) == curve.height
        assert [text.get_text() for text in figure.axes[panel].texts][: curve.height] == [str(n) for n in curve["n_kept"]]
        assert curve.select("threshold", "mean").equals(
            sweep()["selection"]
            .filter(pl.col("threshold").is_in(curve["threshold"].implode()), rule="capped", measure=measure, layers=layers)
            .sort("threshold")
            .select("threshold", "mean")
        )
    assert set(data["threshold"]) >= {0.0, *(one for one in sweep()["selection"]["threshold"] if one >= 1e-4)}
    data, figure = drawn("overview")
    for label, measure in (("kept by output score", "net_gen_success_20"), ("kept, GenSuccess@20 (P1)", "gen_success_20")):
        curve = data.filter(figure="gen_success_by_threshold", layers="all", measure=measure)
        assert_same(lines(figure, 3, label), curve["mean"])
    data, figure = drawn("pmi_by_threshold")
    assert_same(lines(figure, 1, "kept by output score"), data.filter(layers="late")["mean"])
    data, figure = drawn("judge_kept_removed")
    for panel, measure in enumerate(("concept_rating", "fluency_rating", "judge_score")):
        assert_same(lines(figure, panel, "kept"), data.filter(measure=measure)["mean"])
        assert_same(lines(figure, panel, "removed"), data.filter(measure=measure)["removed_mean"])


def test_factors_draw_a_line_for_each_bin() -> None:
    data, figure = drawn("by_factor")
    bins = data.partition_by("output_score_low", maintain_order=True)
    for panel, quantity in enumerate(("gen_success_20", "perplexity")):
        drawn_lines = figure.axes[panel].lines
        assert len(drawn_lines) == len(bins) == 4
        for line, members in zip(drawn_lines, bins, strict=True):
            assert_same(np.asarray(line.get_xdata(), dtype=float), members["factor"])
            assert_same(np.asarray(line.get_ydata(), dtype=float), members[quantity])


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "filter_variants"])  # it shows both ways of choosing
def test_scores_of_the_texts_that_chose_are_not_called_held_out(name: str) -> None:
    figure = FIGURES[name]
    data = figure.data(sample(name), replace(OPTIONS, in_sample=True))
    texts = [text.get_text() for text in figure.draw(data).findobj(Text)]
    assert not [text for text in (*texts, figure.caption) if re.search("held[- ]out|other prefixes", text)]


@pytest.mark.parametrize(("name", "section"), [("tiny", "best_factor"), ("tiny-methods", "methods")])
def test_figures_know_which_texts_chose_the_factors(name: str, section: str) -> None:
    held_out = load_experiment(name, ROOT / "config/experiments")
    chosen = getattr(held_out, section).model_copy(update={"factor_choice": "same_texts"})
    in_sample = held_out.model_copy(update={section: chosen})
    assert [figure_options(experiment).in_sample for experiment in (held_out, in_sample)] == [False, True]


def test_cells_of_the_examples_do_not_overlap() -> None:
    wide = sweep()["examples"].with_columns(
        pl.lit("Wherever MMMM WWWW many wide words come, the table " * 3).alias("unsteered"),
        pl.lit("anger management and other long ones").alias("concept"),
        pl.lit("W" * 120).alias("top_context"),
        pl.lit("costs $5 or $6 and _this_ ^that").alias("steered"),
    )
    _, figure = drawn("examples", {"examples": wide})
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) > 8 * 10 + 1
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_counts_of_the_quarters_hide_no_point() -> None:
    """They stand where no score can be: below 0 or above 1."""
    _, figure = drawn("input_vs_output")
    axes = figure.axes[0]
    heights = [axes.transData.inverted().transform(text.get_window_extent())[:, 1] for text in axes.texts]
    assert sum(high < 0 for _, high in heights) == sum(low > 1 for low, _ in heights) == 2


def test_panels_of_ratings_are_left_out_where_there_are_none() -> None:
    for name, rated, unrated in (("overview", 6, 5), ("output_score_vs_outcome", 3, 2), ("judge_kept_removed", 3, 1)):
        for tables, expected in ((sweep(), rated), (thin("no scores"), unrated)):
            _, figure = drawn(name, tables)
            panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
            assert len(panels) == expected
            letters = [text.get_text() for axes in figure.axes for text in axes.texts if text.get_weight() == "bold"]
            assert letters == (list("abcdef")[:expected] if name == "overview" else [])


def test_line_breaks_and_control_characters_are_visible() -> None:
    tables = sweep()["examples"].with_columns(
        pl.lit(["\n", "<0x0A>", "▁", "a\x07b", "<0x41>"], pl.List(pl.String)).alias("top_logit_lens_tokens"),
        pl.lit(" one\ntwo\t").alias("steered"),
        pl.lit("… [\n] <0x0A>").alias("top_context"),
    )
    _, figure = drawn("examples", {"examples": tables})
    cells = {text.get_text() for text in figure.axes[0].texts}
    assert {"⏎, ⏎, ␣, a⏎b, <0x41>", "… [⏎] ⏎"} <= cells
    assert any(cell.replace("\n", " ").endswith("one⏎two⏎") for cell in cells)


@pytest.mark.filterwarnings("error")
def test_characters_that_the_font_lacks_stand_as_their_numbers(tmp_path: Path) -> None:
    """Chinese, Japanese, Korean, Thai, Arabic, an emoji; and a byte-order mark, at which matplotlib's PDF breaks off, is left out."""
    text = "\ufeff中文 カナ 한국 ไทย العربية 🧭 word"
    tables = sweep()["examples"].with_columns(
        pl.lit([f" {text}", " word"], pl.List(pl.String)).alias("top_logit_lens_tokens"),
        pl.lit(f"one {text}").alias("steered"),
        pl.lit(f"[{text}]").alias("top_context"),
        pl.lit(text).alias("concept"),
    )
    _, figure = drawn("examples", {"examples": tables})
    save_drawing(figure, tmp_path / "examples")
    shown = " ".join(cell.get_text() for cell in figure.axes[0].texts)
    assert all(number in shown for number in ("\\u4e2d\\u6587", "\\u30ab", "\\ud55c", "\\u0e44", "العربية", "\\U0001f9ed"))
    assert not re.search("[\ufeff\u0e00-\u0eff\u3000-\ud7ff\U0001f9ed]", shown)


def test_function_words_are_no_success_of_an_example() -> None:
    tables = sweep()["examples"].with_columns(
        pl.lit([" The", " that", " .", " sea"], pl.List(pl.String)).alias("top_logit_lens_tokens"),
        pl.Series("steered", [" The sea that was" if i else " The day that was" for i in range(sweep()["examples"].height)]),
    )
    assert sorted(data_of("examples", {"examples": tables})["n_matches"]) == [0, *[1] * (tables.height - 1)]


def test_norms_of_decoder_rows_are_told_where_they_are_not_one() -> None:
    features = sweep()["features"]
    for norms, note in (((0.5, 2.25), "norms of 0.5 to 2.25."), ((0.999, 1.001), "above the panel."), ((None, None), "above the panel.")):
        ends = pl.when(pl.int_range(pl.len()) % 2 == 0).then(norms[0]).otherwise(norms[1]).cast(pl.Float64)
        tables = sweep() | {"features": features.with_columns(decoder_norm=ends)}
        assert FIGURES["roles"].counts(data_of("roles", tables)).endswith(note)
        assert ("Decoder rows" in FIGURES["overview"].counts(data_of("overview", tables))) == (norms == (0.5, 2.25))


def test_small_thresholds_are_left_out_where_no_curve_changes() -> None:
    """1e-6 keeps what "all" keeps, at 1e-5 only the second curve loses a feature, 1e-4 is not small."""
    kept = {"one": (9, 9, 9, 9, 3), "two": (9, 9, 8, 8, 2)}
    thresholds = (0.0, 1e-6, 1e-5, 1e-4, 0.1)
    curves = pl.DataFrame(
        [{"layers": name, "threshold": t, "n_kept": n} for name, numbers in kept.items() for t, n in zip(thresholds, numbers, strict=True)]
    )
    for always, expected in ((None, [0.0, 1e-5, 1e-4, 0.1]), (1e-6, [*thresholds])):
        shown = where_something_changes(curves.sample(fraction=1.0, shuffle=True, seed=0), "layers", always=always)
        for name in kept:
            assert sorted(shown.filter(layers=name)["threshold"]) == expected


def test_means_of_few_features_have_no_band() -> None:
    """The mean stays, and the note says so."""
    for name in ("gen_success_by_threshold", "judge_kept_removed", "by_factor"):
        assert "no bands for fewer than 5 features" in FIGURES[name].counts(data_of(name))
    pmi = data_of("pmi_by_threshold")
    assert "none of fewer than 30" in FIGURES["pmi_by_threshold"].counts(pmi)
    assert set(pmi.filter(pl.col("low").is_null())["n_kept"]) == {n for n in pmi["n_kept"] if n < 30}
    rows = pl.DataFrame({"n": [5, 4], "mean": [1.0, 2.0], "low": [0.0, 1.0]})
    assert banded(rows, "n", "low").to_dict(as_series=False) == {"n": [5, 4], "mean": [1.0, 2.0], "low": [0.0, None]}
    judged = data_of("judge_kept_removed")
    assert judged.filter(pl.col("n_features") - pl.col("n_kept") < 5)["removed_low"].drop_nulls().is_empty()


def test_axes_of_factors_and_of_success_are_linear() -> None:
    for name, panel in (("by_factor", 0), ("by_factor", 1), ("overview", 4)):
        axes = drawn(name)[1].axes[panel]
        assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log" if panel == 1 else "linear")


def test_matches_are_highlighted_and_tell_good_examples_from_bad() -> None:
    """A token matches as a whole word; one without a space before it only at the end of a word."""
    tokens = ["▁garden", "▁drowsy", ",", "ed", "▁C"]
    texts = [" a gardener, and the garden.", " C", " drowsyness", None]
    shown = sweep()["examples"].head(4).with_columns(pl.lit(tokens).alias("top_logit_lens_tokens"), pl.Series("steered", texts))
    data, figure = drawn("examples", {"examples": shown})
    assert data["n_matches"].sort().to_list() == [0, 0, 1, 2]
    assert (data["n_matches"] > 0).to_list() == [True, True, False, False]
    assert FIGURES["examples"].counts(data).endswith("2 with a top logit-lens token in the steered text, steering failed for 1.")
    titles = [text.get_text() for text in figure.axes[0].texts if text.get_weight() == "bold" and "/" not in text.get_text()]
    assert titles == ["Steering writes top logit-lens tokens of the feature", "Steering writes none of them"]
    by_height = {round(text.get_position()[1], 2): text.get_text() for text in figure.axes[0].texts if text.get_color() == MAGENTA}
    marked = [by_height.get(round(patch.get_y() + 0.015 + 0.115, 2), "") for patch in figure.axes[0].patches]
    assert sorted(line for line in marked if line) == sorted(
        line for line in by_height.values() for _ in range(2 * line.endswith("garden.") + line.endswith(" C"))
    )
