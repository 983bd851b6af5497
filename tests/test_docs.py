"""The README and the documentation: what is generated is in step, what is named exists, and the site builds without a warning."""

import ast
import csv
import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from workflow_folder import BIN, CHROMIUM, ROOT

import saesteer
from saesteer.settings import SettingsError, Sweep, load_experiment
from saesteer.settings.registry import METHODS
from saesteer.steps.step import step_tables
from saesteer.summaries.summary import summary_tables
from studies.pages.blocks import PAGES, with_block, written

README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = ["README.md", *(f"docs/{page}.md" for page in ("findings", "known-truth", "methods"))]
"""Pages whose words say what was measured."""
INTERVAL = re.compile(r"(?P<mean>[−+]?\d*\.?\d+)(?: times|×)?\s+\[(?P<low>[−+]?\d*\.?\d+),\s+(?P<high>[−+]?\d*\.?\d+)\]")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_the_kept_results(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert written(ROOT, page, text) == text, "run `make readme`"


def test_intervals_in_the_text_stand_in_a_table() -> None:
    """A mean with its interval is a row of a kept table, as it is or as the reverse difference, or stands in a page of tables or a
    generated block."""
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in {*RESULTS, *PAGES}}
    kept = set(kept_intervals((ROOT / "docs").rglob("*.csv")))
    for page in (ROOT / "docs/tables").glob("*.md"):
        lines = "\n".join(line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
        kept.update((sign * mean, *sorted((sign * low, sign * high))) for mean, low, high in shown_intervals(lines) for sign in (1, -1))
    for page, blocks in PAGES.items():
        for name in blocks:
            block = texts[page].partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]
            kept.update(shown_intervals(block))
            texts[page] = with_block(page, texts[page], name, "")
    for page, text in texts.items():
        prose = re.sub(r"^```text\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)  # without what commands print
        for section in re.split(r"^## ", prose, flags=re.MULTILINE):
            assert sorted(set(shown_intervals(section)) - kept) == [], f"{page}: {section.splitlines()[:1]}"


def shown_intervals(text: str) -> list[tuple[float, ...]]:
    matches = (match.group("mean", "low", "high") for match in INTERVAL.finditer(text))
    return [tuple(float(number.replace("−", "-")) for number in numbers) for numbers in matches]


def kept_intervals(paths: Iterable[Path]) -> Iterator[tuple[float, ...]]:
    """(mean, low, high) of every row of the tables, and the reverse, rounded to one, two and three digits."""
    for path in paths:
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            for low in (name for name in row if name.endswith("low") and row[name]):
                own = low.removesuffix("low").removesuffix("_")
                mean = next(name for name in (own, f"{own}_mean", "mean") if name in row)
                numbers = [float(row[name]) for name in (mean, low, low.removesuffix("low") + "high") if name in row]
                for digits in (1, 2, 3):
                    yield tuple(float(f"{number:.{digits}f}") for number in numbers)
                    yield tuple(float(f"{-number:.{digits}f}") for number in (numbers[0], *reversed(numbers[1:])))


def test_an_experiment_on_a_page_is_valid(tmp_path: Path) -> None:
    """Each file that a page says to save is read as it stands there, beside the experiments that ship."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in FILES)
    written = dict(re.findall(r"```yaml\n# config/experiments/([\w-]+)\.yaml\n(.*?)```", pages, re.DOTALL))
    for name, text in written.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    read = {name: load_experiment(name, tmp_path, ROOT / "docs", ROOT / "config/experiments") for name in written}
    assert read.keys() >= {"gemma-five", "gemma-layer-20", "gemma-3-1b", "my-methods"}
    assert isinstance(load_experiment("gemma-layer-20", tmp_path, ROOT / "config/experiments", kind="sweep"), Sweep)  # for `recommend`


def test_the_messages_under_troubleshooting_are_those_of_the_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "Makefile", *(ROOT / "src").rglob("*.py")])
    joined = re.sub(r'"\n\s*f?"', "", code)
    messages = re.findall(r"^\| `(.+?)` \|", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(messages) >= 18
    assert [message for message in messages if not all(part in joined for part in message.split("…"))] == []


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"docs/a\.md has no lines <!-- headline -->"):
        with_block("docs/a.md", "# Title", "headline", "| a |")


def test_every_link_leads_somewhere() -> None:
    """Links within the site are checked once more when it is built."""
    for page in FILES:
        linked = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
        for path, anchor in linked:
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {path}"
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            anchors = {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in anchors or target.name == "performance.md", f"{page.name}: {path}#{anchor}"


def test_the_repositorys_address_is_said_in_one_way() -> None:
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert f"git clone {address}" in README
    assert f"\nrepository-code: {address}\n" in (ROOT / "CITATION.cff").read_text()


def test_a_page_that_names_a_paper_says_which_it_is() -> None:
    pages = [page for page in (ROOT / "docs").glob("*.md") if page.name != "plan.md"]  # which is fixed
    names_one = [page for page in pages if re.search(r"\bP[1-6]\b", page.read_text())]
    assert len(names_one) > 7
    assert [page.name for page in names_one if not re.search(r"#the-papers\)|^## The papers", page.read_text(), re.MULTILINE)] == []


@pytest.mark.parametrize("page", [*FILES, ROOT / "docs/formulas.csv"], ids=lambda page: page.name)
def test_every_function_and_module_named_exists(page: Path) -> None:
    mark = "" if page.suffix == ".csv" else "`"
    for name in re.findall(rf"{mark}((?:saesteer|studies)(?:\.\w+)+){mark}", page.read_text(encoding="utf-8")):
        module, _, function = name.rpartition(".")
        file = next((path for path in (_file(name), _file(module)) if path), None)
        assert file, f"{name} does not exist"
        names = {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}
        assert file == _file(name) or function in names, f"{file} has no function {function}"


def _file(module: str) -> Path | None:
    paths = [folder / module.replace(".", "/") for folder in (ROOT / "src", ROOT)]
    return next((file for path in paths for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def test_every_table_column_and_method_is_described() -> None:
    text = program_of_docs("conf").tables_markdown()
    for table in (step_tables() | summary_tables()).values():
        section = text.split(f"### `{table.name}`\n")[1].split("###")[0]
        shown = re.findall(r"^\| `(\w+)`( \(key\))? \| (.+?) \| (.+?) \| (.*?) \|$", section, re.MULTILINE)
        assert [row[0] for row in shown] == list(table.columns)
        assert tuple(row[0] for row in shown if row[1]) == table.keys
        assert [bool(row[4].strip()) for row in shown] == [column.null_when is not None for column in table.columns.values()]
    assert re.findall(r"\| `(\w+)` \|", program_of_docs("conf").registry_markdown()) == [row.name for row in METHODS]
    assert f"[{len(METHODS) - 1} methods and controls" in README  # without from_file
    listed = re.findall(r"auto(?:function|class):: (\w+)$", (ROOT / "docs/reference/api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(saesteer.__all__)


def program_of_docs(name: str) -> ModuleType:
    """A program of the folder docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec
    assert spec.loader
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


def test_the_picture_of_the_rooms_is_that_of_the_imports() -> None:
    rooms = program_of_docs("rooms")
    assert (ROOT / "docs/rooms.svg").read_text(encoding="utf-8") == rooms.picture(), "run `python docs/rooms.py`"
    direct = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": {"torch"}}
    assert rooms.without_detours(direct, ["a", "b", "c", "d"]) == [("a", "b"), ("b", "c"), ("c", "d")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with the options of `make docs`, which CI runs before any test."""
    folder = tmp_path_factory.mktemp("site")
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "sphinx-build" in line]
    options = line.split("sphinx-build ")[1].removesuffix("build/docs").split()
    done = subprocess.run([str(BIN / "sphinx-build"), *options, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.exhaustive
def test_the_site_builds_without_a_warning(site: Path) -> None:
    """Every generated page has its content."""
    for page, word in {
        "tables": "gen_success_20",
        "commands": "saesteer unlock",
        "methods": "reft_r1",
        "configuration": "gen_success_limit",
        "models": "recurrent_gemma",
        "faults": "test_bombs.py",
    }.items():
        assert word in re.sub("<[^>]+>", "", (site / f"reference/{page}.html").read_text(encoding="utf-8")), page
    assert all((site / "example" / path).is_file() for path in ("index.html", "report.js", "data/index.js", "figures/overview.png"))
    assert "saesteer.load_sae" in (site / "reference/api.html").read_text(encoding="utf-8")


@pytest.mark.exhaustive
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")
@pytest.mark.parametrize(
    ("word", "page"), [("recommend", "recommend"), ("serve", "serve"), ("steer live", "serve"), ("install", "install")]
)
def test_a_search_gives_the_page_with_the_word_in_its_title_first(word: str, page: str, site: Path) -> None:
    options = ["--headless", "--no-sandbox", "--virtual-time-budget=5000", "--dump-dom"]
    address = f"{site.as_uri()}/search.html?q={word}"
    shown = subprocess.run([str(CHROMIUM), *options, address], capture_output=True, text=True, check=True).stdout
    first = re.search(r'<li class="[^"]*"><a href="([^"?#]+)', shown.partition("search-results")[2])
    assert first is not None, shown
    assert first[1] == f"{page}.html"


def test_the_first_hour_shows_the_texts_that_steering_writes() -> None:
    page = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    printed = page.partition("```text\ntiny, feature 6/548")[2].partition("```")[0]
    cells = [line.split("│")[1:-1] for line in printed.splitlines() if line.startswith("│")]
    columns = [" ".join(" ".join(column).split()) for column in zip(*cells, strict=True)]
    lm, sae = saesteer.load_model(ROOT / "data/world/model"), saesteer.load_sae(ROOT / "data/world/saes/layer_06")
    texts = saesteer.steer(lm, sae, [548], [0, 1.6], ["People often say that"], n_samples=3)
    assert columns == [
        " ".join(f"{row['prompt']}{row['text']}" for row in texts.filter(factor=factor).rows(named=True)) for factor in (0, 1.6)
    ]
