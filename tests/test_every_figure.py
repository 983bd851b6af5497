"""What holds for every figure: axes are labelled, files are the same bytes again, thin tables do not break it. Each is drawn once."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from drawn_figures import FIGURES, METHOD_FIGURES, THIN, assert_labelled_and_inside, comparison, data_of, drawn, sweep, thin, two_layers
from matplotlib.figure import Figure
from matplotlib.text import Text

from saesteer.figures.save import flat, save_figure
from saesteer.figures.style import LOOKS, PAGE
from saesteer.summaries.summary import summary_tables

A4 = 11.69
"""The width in inches of a page on its side, which the overview fills."""
OF_EACH_KIND = ("overview", "examples", "method_curves")
ELSEWHERE = """
import sys
from pathlib import Path
import polars as pl
from drawn_figures import FIGURES, data_of
from saesteer.figures.save import save_figure

tables, folder, *names = sys.argv[1:]
read = {path.stem: pl.read_ipc(path) for path in Path(tables).iterdir()}
for name in names:
    data = data_of(name, read)
    save_figure(FIGURES[name].draw(data), data, Path(folder) / name)
print("torch" in sys.modules)
"""
"""Draws the named figures of tables in a folder."""


IN_FILES = [pytest.param(name, marks=() if name in OF_EACH_KIND else pytest.mark.exhaustive) for name in FIGURES]


@dataclass(frozen=True)
class Drawing:
    name: str
    data: pl.DataFrame
    figure: Figure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(scope="module", params=FIGURES)
def drawing(request: pytest.FixtureRequest) -> Drawing:
    """A figure of the sample tables, as it is when it is drawn at its own size."""
    return Drawing(request.param, *drawn(request.param))


def in_files(name: str, folder: Path) -> Path:
    """A figure of the sample tables in files, without their endings."""
    if not (folder / f"{name}.pdf").is_file():
        data = data_of(name)
        save_figure(FIGURES[name].draw(data), data, folder / name)
    return folder / name


def test_declarations_name_tables_and_say_how_to_read_the_figure() -> None:
    assert {table for figure in FIGURES.values() for table in figure.tables} <= {*summary_tables()}
    assert all(len(figure.caption) > 50 for figure in FIGURES.values())
    assert len({figure.position for figure in FIGURES.values()}) == len(FIGURES)
    assert next(iter(FIGURES)) == "overview"
    assert len({look.colour for look in LOOKS.values()}) == len({look.marker for look in LOOKS.values()}) == len(LOOKS)


def test_axes_are_labelled_and_text_lies_inside(drawing: Drawing) -> None:
    assert_labelled(drawing.name, drawing.figure)


@pytest.mark.parametrize("name", METHOD_FIGURES)
def test_axes_of_two_layers_are_labelled_and_text_lies_inside(name: str) -> None:
    assert_labelled(name, drawn(name, two_layers())[1])


def assert_labelled(name: str, figure: Figure) -> None:
    assert_labelled_and_inside(figure)
    if name != "method_differences":  # of many methods, which is wider than a page
        assert_legible(figure, width=PAGE if name != "overview" else A4)
    shown = [axes for axes in figure.axes if axes.axison and name not in ("methods",)]  # whose axis is of names
    assert all(axes.get_ylabel() for axes in shown if axes.get_subplotspec() and axes.get_subplotspec().is_first_col())


def assert_legible(figure: Figure, width: float) -> None:
    """No text is smaller than 8 points where the figure is printed at a width in inches."""
    scale = min(1.0, width / figure.get_figwidth())
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text.axes is not None]
    assert min(text.get_fontsize() * scale for text in [*shown, *figure.texts]) >= 8


def test_nothing_drawn_lies_outside_its_axes(drawing: Drawing) -> None:
    for axes in drawing.figure.axes if drawing.name != "examples" else ():
        (x0, x1), (y0, y1) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
        data = axes.dataLim
        assert x0 <= data.x0
        assert data.x1 <= x1
        assert y0 <= data.y0
        assert data.y1 <= y1


@pytest.mark.parametrize("name", IN_FILES)
def test_files_hold_what_is_drawn(name: str, folder: Path) -> None:
    stem = in_files(name, folder)
    pdf = stem.with_suffix(".pdf").read_bytes()
    assert b"Date" not in pdf
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf  # embedded TrueType, so that the text stays text
    assert len(stem.with_suffix(".png").read_bytes()) > 100
    assert sorted(path.suffix for path in folder.glob(f"{name}.*")) == [".csv", ".pdf", ".png"]
    data = flat(data_of(name))
    assert pl.read_csv(stem.with_suffix(".csv"), schema=data.schema).equals(data)


def test_the_order_of_the_tables_rows_changes_nothing(drawing: Drawing) -> None:
    """What is drawn is made from the data alone: the same data is the same figure."""
    data = data_of(drawing.name, shuffled(seed=1))
    assert data.equals(drawing.data)
    assert FIGURES[drawing.name].counts(data) == FIGURES[drawing.name].counts(drawing.data)


def shuffled(seed: int) -> dict[str, pl.DataFrame]:
    return {table: frame.sample(fraction=1.0, shuffle=True, seed=seed) for table, frame in (sweep() | comparison()).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [OF_EACH_KIND, pytest.param(tuple(FIGURES), marks=pytest.mark.exhaustive)], ids=["of each kind", "every figure"]
)
def test_another_process_writes_the_same_bytes_without_torch(names: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    """From tables in another order, and with another hash seed."""
    tables, elsewhere = tmp_path / "tables", tmp_path / "figures"
    tables.mkdir()
    elsewhere.mkdir()
    for table, frame in shuffled(seed=2).items():
        frame.write_ipc(tables / f"{table}.arrow")
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ELSEWHERE, str(tables), str(elsewhere), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.stderr, done.stdout.split()) == ("", ["False"])
    for name in names:
        for kind in (".pdf", ".png", ".csv"):
            here = in_files(name, folder).with_suffix(kind)
            assert here.read_bytes() == (elsewhere / f"{name}{kind}").read_bytes(), (name, kind)


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
