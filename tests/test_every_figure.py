"""What holds for every figure: axes are labelled, files are the same bytes again, thin tables do not break it."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from drawn_figures import ALL_TABLES, FIGURES, OPTIONS, THIN, Tables, assert_labelled_and_inside, drawn, thin, two_layers, world

from saesteer.core.tables import ALL_SUMMARIES
from saesteer.figures.method_families import LOOKS
from saesteer.figures.names import CAPTIONS, FIGURE_TABLES, METHOD_FIGURE_TABLES
from saesteer.figures.save import flat, save_figure
from saesteer.methods.compare.means import FAMILIES

KINDS = ("pdf", "png", "csv")


def make(name: str, tables: Tables, stem: Path) -> str:
    """The figure's files; returns the note at its foot."""
    data = FIGURES[name].data({table: tables[table] for table in ALL_TABLES[name]}, OPTIONS)
    save_figure(FIGURES[name].draw(data), data, stem)
    return FIGURES[name].counts(data)


def test_names_tables_captions_and_families_agree() -> None:
    assert {name for name, read in FIGURE_TABLES.items() if len(read) != 1} == {"overview"}
    assert {table for read in ALL_TABLES.values() for table in read} <= {*ALL_SUMMARIES}
    assert set(CAPTIONS) == set(FIGURES)
    assert all(len(caption) > 50 for caption in CAPTIONS.values())
    assert tuple(LOOKS) == FAMILIES
    assert len({look.colour for look in LOOKS.values()}) == len({look.marker for look in LOOKS.values()}) == len(LOOKS)


CASES = [(name, world) for name in FIGURES] + [(name, two_layers) for name in METHOD_FIGURE_TABLES]


@pytest.mark.parametrize(("name", "tables"), CASES)
def test_axes_are_labelled_and_text_lies_inside(name: str, tables: object) -> None:
    _, figure = drawn(name, tables())
    assert_labelled_and_inside(figure)
    shown = [axes for axes in figure.axes if axes.axison and name not in ("methods",)]  # whose axis is of names
    assert all(axes.get_ylabel() for axes in shown if axes.get_subplotspec() and axes.get_subplotspec().is_first_col())


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "examples"])
def test_nothing_drawn_lies_outside_its_axes(name: str) -> None:
    _, figure = drawn(name, world())
    for axes in figure.axes:
        (x0, x1), (y0, y1) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
        data = axes.dataLim
        assert x0 <= data.x0
        assert data.x1 <= x1
        assert y0 <= data.y0
        assert data.y1 <= y1


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_files_are_the_same_bytes_again_and_hold_what_is_drawn(name: str, tmp_path: Path) -> None:
    shuffled = {table: frame.sample(fraction=1.0, shuffle=True, seed=1) for table, frame in world().items()}
    notes = [make(name, tables, tmp_path / folder / name) for folder, tables in (("a", world()), ("b", shuffled))]
    assert notes[0] == notes[1]
    for kind in KINDS:
        first, second = ((tmp_path / folder / f"{name}.{kind}").read_bytes() for folder in "ab")
        assert first == second
        assert len(first) > 100
    pdf = (tmp_path / "a" / f"{name}.pdf").read_bytes()
    assert b"Date" not in pdf
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf  # embedded TrueType, so that the text stays text
    assert sorted(path.suffix for path in (tmp_path / "a").iterdir()) == [".csv", ".pdf", ".png"]
    data = flat(FIGURES[name].data(world(), OPTIONS))
    assert pl.read_csv(tmp_path / "a" / f"{name}.csv", schema=data.schema).equals(data)


@pytest.mark.slow
def test_another_process_writes_the_same_bytes_without_torch(tmp_path: Path) -> None:
    """Later, and with another hash seed."""
    name = "overview"
    make(name, world(), tmp_path / "here")
    program = (
        "import sys; from pathlib import Path\n"
        "from synthetic_tables import selection_settings, synthetic_tables\n"
        "from saesteer.figures import overview; from saesteer.figures.definition import Options\n"
        "from saesteer.figures.save import save_figure\n"
        "data = overview.data(synthetic_tables(), Options('capped', selection_settings()))\n"
        "save_figure(overview.draw(data), data, Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "there")], env=environment, check=True)
    for kind in KINDS:
        assert (tmp_path / f"here.{kind}").read_bytes() == (tmp_path / f"there.{kind}").read_bytes()


def test_statistics_and_figures_import_no_torch() -> None:
    modules = [f"analysis.{name}" for name in ("best_factor", "examples", "factor_bins", "metrics", "pmi", "selection")]
    modules += ["report.headline", "report.method_report", "report.axbench_format", "core.uncertainty", "methods.compare.summaries"]
    modules += ["figures.save", *(f"figures.{name}" for name in FIGURES)]
    names_only = "import sys, saesteer.figures.names; print('matplotlib' in sys.modules)\n"
    program = names_only + "\n".join(f"import saesteer.{name}" for name in modules) + "\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in THIN.items() for case in cases])
@pytest.mark.filterwarnings("error")
def test_thin_tables_are_drawn(name: str, case: str) -> None:
    """There are axes, and a note that says of how many things they are."""
    data, figure = drawn(name, thin(case))
    assert figure.axes
    note = FIGURES[name].counts(data)
    assert "n = " in note
    assert "nan" not in note.lower()
    assert "None" not in note


def test_lists_are_saved_as_text(tmp_path: Path) -> None:
    make("examples", world(), tmp_path / "examples")
    saved = pl.read_csv(tmp_path / "examples.csv")
    assert saved["lens_tokens"][0] == " ".join(FIGURES["examples"].data(world(), OPTIONS)["lens_tokens"][0])
