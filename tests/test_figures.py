"""Every figure: what is drawn is the data, axes are labelled, files are the same bytes again, thin tables do not break it."""

import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from drawn_figures import assert_drawn_and_told, assert_labelled_and_inside
from jinja2 import Template
from matplotlib.figure import Figure
from synthetic_tables import selection_settings, synthetic_tables

from saesteer.core.tables import SUMMARIES
from saesteer.figures import examples as examples_figure
from saesteer.figures.definition import FigureDefinition, Options
from saesteer.figures.names import FIGURE_TABLES
from saesteer.figures.save import save_figure

OPTIONS = Options("capped", selection_settings())
FIGURES: dict[str, FigureDefinition] = {name: import_module(f"saesteer.figures.{name}").FIGURE for name in FIGURE_TABLES}
KINDS = ("pdf", "png", "csv")
MICRO = {"n_layers": 2, "n_features": 4, "factors": ("0", "2", "4")}


@pytest.fixture(scope="module")
def world() -> dict[str, pl.DataFrame]:
    return synthetic_tables()


def drawn(name: str, tables: dict[str, pl.DataFrame]) -> tuple[pl.DataFrame, Figure]:
    data = FIGURES[name].data(tables, OPTIONS)
    figure = FIGURES[name].draw(data)
    figure.draw_without_rendering()
    return data, figure


def make(name: str, tables: dict[str, pl.DataFrame], stem: Path) -> str:
    """The figure's files, from no table but those it names; returns the caption."""
    data = FIGURES[name].data({table: tables[table] for table in FIGURE_TABLES[name]}, OPTIONS)
    save_figure(FIGURES[name].draw(data), data, stem)
    return FIGURES[name].caption(data)


def lines(figure: Figure, panel: int, label: str) -> np.ndarray:
    """The y values of a labelled line."""
    (line,) = (line for line in figure.axes[panel].lines if line.get_label() == label)
    return np.asarray(line.get_ydata(), dtype=float)


def assert_same(values: np.ndarray, column: pl.Series) -> None:
    np.testing.assert_array_equal(values, column.cast(pl.Float64).fill_null(np.nan).to_numpy())


def test_names_tables_and_definitions_agree() -> None:
    assert all(name == definition.name for name, definition in FIGURES.items())
    assert {name for name, read in FIGURE_TABLES.items() if len(read) != 1} == {"overview"}
    assert {table for read in FIGURE_TABLES.values() for table in read} <= set(SUMMARIES)


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled_and_text_lies_inside(name: str, world: dict[str, pl.DataFrame]) -> None:
    _, figure = drawn(name, world)
    assert_labelled_and_inside(figure)
    shown = [axes for axes in figure.axes if axes.axison]
    assert all(axes.get_ylabel() for axes in shown if axes.get_subplotspec() and axes.get_subplotspec().is_first_col())


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_files_are_the_same_bytes_again(name: str, world: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    shuffled = {table: frame.sample(fraction=1.0, shuffle=True, seed=1) for table, frame in world.items()}
    captions = [make(name, tables, tmp_path / folder / name) for folder, tables in (("a", world), ("b", shuffled))]
    assert captions[0] == captions[1]
    for kind in KINDS:
        first, second = ((tmp_path / folder / f"{name}.{kind}").read_bytes() for folder in "ab")
        assert first == second
        assert len(first) > 100
    pdf = (tmp_path / "a" / f"{name}.pdf").read_bytes()
    assert b"Date" not in pdf
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf  # embedded TrueType, so that the text stays text
    assert sorted(path.suffix for path in (tmp_path / "a").iterdir()) == [".csv", ".pdf", ".png"]


@pytest.mark.slow
def test_another_process_writes_the_same_bytes_without_torch(world: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    """Later, and with another hash seed."""
    name = "overview"
    make(name, world, tmp_path / "here")
    program = (
        "import sys; from pathlib import Path\n"
        "from synthetic_tables import selection_settings, synthetic_tables\n"
        "from saesteer.figures import overview; from saesteer.figures.definition import Options\n"
        "from saesteer.figures.save import save_figure\n"
        "data = overview.FIGURE.data(synthetic_tables(), Options('capped', selection_settings()))\n"
        "save_figure(overview.FIGURE.draw(data), data, Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "there")], env=environment, check=True)
    for kind in KINDS:
        assert (tmp_path / f"here.{kind}").read_bytes() == (tmp_path / f"there.{kind}").read_bytes()


def test_statistics_and_figures_import_no_torch() -> None:
    modules = [f"analysis.{name}" for name in ("best_factor", "examples", "factor_bins", "metrics", "pmi", "selection")]
    modules += ["report.headline", "core.uncertainty"]
    modules += ["figures.save", *(f"figures.{name}" for name in FIGURE_TABLES)]
    names_only = "import sys, saesteer.figures.names; print('matplotlib' in sys.modules)\n"
    program = names_only + "\n".join(f"import saesteer.{name}" for name in modules) + "\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "examples"])
def test_nothing_drawn_lies_outside_its_axes(name: str, world: dict[str, pl.DataFrame]) -> None:
    _, figure = drawn(name, world)
    for axes in figure.axes:
        (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
        data = axes.dataLim
        assert x0 <= data.x0
        assert data.x1 <= x1
        assert y0 <= data.y0
        assert data.y1 <= y1


def test_roles_draws_medians_of_every_layer(world: dict[str, pl.DataFrame]) -> None:
    data, figure = drawn("roles", world)
    assert data.height == 8
    for score in ("input_score", "output_score"):
        medians = world["features"].group_by("layer").agg(pl.col(score).median()).sort("layer")[score]
        np.testing.assert_allclose(lines(figure, 0, score.replace("_", " ")), medians.to_numpy())
    assert data["n_without_input_score"].sum() == world["features"]["input_score"].null_count()


def test_scatters_draw_every_feature_that_has_both_values(world: dict[str, pl.DataFrame]) -> None:
    data, figure = drawn("input_vs_output", world)
    offsets = np.asarray(figure.axes[0].collections[0].get_offsets())
    assert len(offsets) == data["input_score"].count() == 240 - data["input_score"].null_count()
    counts = [int(text.get_text().removeprefix("n = ")) for text in figure.axes[0].texts]
    assert sum(counts) == len(offsets)
    data, figure = drawn("output_score_vs_outcome", world)
    for panel, measure in enumerate(("gen_success_20", "judge_score")):
        values = world["outcomes"].filter(rule="capped").sort("layer", "feature")[measure].drop_nulls()
        np.testing.assert_array_equal(np.asarray(figure.axes[panel].collections[0].get_offsets())[:, 1], values.to_numpy())


def test_curves_draw_every_threshold(world: dict[str, pl.DataFrame]) -> None:
    data, figure = drawn("gen_success_by_threshold", world)
    for panel, layers in enumerate(("all", "late")):
        curve = data.filter(layers=layers)
        assert_same(lines(figure, panel, "kept by output score"), curve["mean"])
        assert_same(lines(figure, panel, "as many removed at random"), curve["random_mean"])
        assert len(figure.axes[panel].get_xticks()) == curve.height == 15
        n_kept = [text.get_text() for text in figure.axes[panel].texts][: curve.height]
        assert n_kept == [str(n) for n in curve["n_kept"]]
    data, figure = drawn("pmi_by_threshold", world)
    assert_same(lines(figure, 1, "kept by output score"), data.filter(layers="late")["mean"])
    data, figure = drawn("judge_kept_removed", world)
    for panel, measure in enumerate(("concept_rating", "fluency_rating", "judge_score")):
        assert_same(lines(figure, panel, "kept"), data.filter(measure=measure)["mean"])
        assert_same(lines(figure, panel, "removed"), data.filter(measure=measure)["removed_mean"])


def test_factors_draw_a_line_for_each_bin(world: dict[str, pl.DataFrame]) -> None:
    data, figure = drawn("by_factor", world)
    bins = data.partition_by("output_score_low", maintain_order=True)
    for panel, quantity in enumerate(("gen_success_20", "perplexity")):
        drawn_lines = figure.axes[panel].lines
        assert len(drawn_lines) == len(bins) == 4
        for line, members in zip(drawn_lines, bins, strict=True):
            assert_same(np.asarray(line.get_ydata(), dtype=float), members[quantity])
            assert line.get_xdata()[0] == 0


def test_cells_of_the_examples_do_not_overlap(world: dict[str, pl.DataFrame]) -> None:
    wide = world["examples"].with_columns(
        pl.lit("Wherever MMMM WWWW many wide words come, the table " * 3).alias("unsteered"),
        pl.lit("anger management and other long ones").alias("concept"),
        pl.lit("W" * 120).alias("top_context"),
        pl.lit("costs $5 or $6 and _this_ ^that").alias("steered"),
    )
    _, figure = drawn("examples", {"examples": wide})
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 8 * 9 + 1
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_examples_as_markdown_is_one_line_a_feature(world: dict[str, pl.DataFrame]) -> None:
    odd = world["examples"].with_columns(pl.lit("a | b\nc").alias("steered"))
    table = examples_figure.markdown(odd).splitlines()
    assert len(table) == 2 + 8
    assert {line.count("|") for line in table} == {9}


def blank(table: pl.DataFrame, *columns: str) -> pl.DataFrame:
    return table.with_columns(pl.lit(None, table.schema[name]).alias(name) for name in columns)


@cache
def degenerate(case: str) -> dict[str, pl.DataFrame]:
    """Tables of very small or very incomplete experiments."""
    if case == "one feature":
        return synthetic_tables(1, 1, ("0", "2"))
    tables = synthetic_tables(**MICRO)
    if case == "no scores":
        tables["features"] = blank(tables["features"], "input_score", "concept", "max_activation")
        judged = pl.col("measure") != "gen_success_20"
        nulls = [name for name, column in SUMMARIES["selection"].columns.items() if column.null_when]
        empty = tables["selection"].with_columns(
            *(pl.when(~judged).then(name).alias(name) for name in nulls),
            *(pl.when(~judged).then(name).otherwise(0).cast(pl.UInt32).alias(name) for name in ("n_features", "n_kept")),
        )
        tables["selection"] = empty
        tables["outcomes"] = blank(tables["outcomes"], "judge_score", "concept_rating", "fluency_rating", "concept")
        tables["factor_bins"] = blank(tables["factor_bins"], "perplexity", "perplexity_low", "perplexity_high")
        tables["pmi"] = blank(tables["pmi"], "mean", "low", "high").with_columns(n_kept=pl.lit(0, pl.UInt32))
        tables["examples"] = blank(tables["examples"], "input_score", "concept", "top_context", "factor", "steered")
    return tables


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("case", ["micro", "one feature", "no scores"])
@pytest.mark.filterwarnings("error")
def test_thin_tables_are_drawn(case: str, name: str) -> None:
    data, figure = drawn(name, degenerate(case))
    assert_drawn_and_told(FIGURES[name], data, figure)


def test_the_data_saved_is_the_data_drawn(world: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    make("gen_success_by_threshold", world, tmp_path / "figure")
    data = FIGURES["gen_success_by_threshold"].data(world, OPTIONS)
    assert pl.read_csv(tmp_path / "figure.csv", schema=data.schema).equals(data)
    make("examples", world, tmp_path / "examples")
    saved = pl.read_csv(tmp_path / "examples.csv")
    assert saved["lens_tokens"][0] == " ".join(FIGURES["examples"].data(world, OPTIONS)["lens_tokens"][0])


def test_the_reports_captions_are_what_the_figures_say() -> None:
    """docs/captions.rst is a Jinja template that Snakemake fills; rendered for each figure it is the figure's own reading."""
    template = Template((Path(__file__).parents[1] / "docs/captions.rst").read_text(encoding="utf-8"))
    for name in FIGURE_TABLES:
        rendered = template.render(snakemake=SimpleNamespace(wildcards=SimpleNamespace(figure=name)))
        assert rendered.strip() == FIGURES[name].reading
