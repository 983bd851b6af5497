"""The documentation site: `make docs` builds it into build/docs, without a network and with every warning an error.

Sphinx with MyST and furo: mkdocs-material, the other candidate, is in maintenance mode. What can be derived from the code is derived
when the site is built (`GENERATED`, autodoc), so there is no copy to forget.
"""

import csv
import re
import shutil
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl
import typer
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

from saesteer.cli import app
from saesteer.core.markdown import table
from saesteer.core.tables import Table
from saesteer.core.texts import EXAMPLE
from saesteer.engine import hook_points
from saesteer.reference.sae_docs import releases_markdown
from saesteer.settings.registry import METHODS
from saesteer.site.folder import ASSETS
from saesteer.steps.step import step_tables
from saesteer.summaries.summary import summary_tables
from saesteer.workflow.families import REFUSED

ROOT = Path(__file__).parents[1]
project, author, html_title = "saesteer", "The saesteer developers", "saesteer"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["captions.rst"]
html_theme = "furo"
html_show_copyright = False
html_static_path, html_css_files, html_search_scorer = ["_static"], ["site.css"], str(ROOT / "docs/scorer.js")
myst_heading_anchors = 3
default_role = "literal"
autodoc_member_order = "bysource"
# Types of other projects: their documentation is not here to refer to.
nitpick_ignore_regex = [("py:.*", r"(?!saesteer\b).*")]


def commands() -> str:
    """The command line, from typer."""
    group = typer.main.get_command(app)
    group.commands = {name: command for name, command in group.commands.items() if not command.hidden}
    return get_docs_for_click(obj=group, ctx=typer.Context(group), name="saesteer").partition("\n")[2]


def tables_markdown() -> str:
    """Every table on disk: those of steps, then summaries."""
    steps, summaries = ("\n".join(map(_section, several.values())) for several in (step_tables(), summary_tables()))
    fields = ", ".join(f"`{name}` ({_type(dtype)})" for name, dtype in EXAMPLE.to_schema().items())
    return f"## Tables of steps\n\n{steps}\nAn example has {fields}.\n\n## Summaries\n\n{summaries}"


def _section(shown: Table) -> str:
    rows = (
        (
            f"`{name}`{' (key)' if name in shown.keys else ''}",
            _type(column.dtype),
            column.meaning.replace("|", "or"),
            (column.null_when or "").replace("|", "or"),
        )
        for name, column in shown.columns.items()
    )
    return f"### `{shown.name}`\n\n{table(('column', 'type', 'meaning', 'null when'), rows)}\n"


def _type(dtype: Any) -> str:
    if isinstance(dtype, pl.List):
        return "list of max-activating examples" if dtype.inner == EXAMPLE else f"list of {_type(dtype.inner)}"
    return str(dtype)


def registry_markdown() -> str:
    """Every method of the registry: its paper, what it is given, what chooses, and the module that fits it."""
    rows = (
        [row.title, f"`{row.name}`", row.paper, ", ".join(row.needs), row.chosen_by, row.text_use, f"`{row.module}`"] for row in METHODS
    )
    return table(["method", "key", "from", "needs", "chosen by", "labelled texts", "module"], rows)


def saes_markdown() -> str:
    """Where SAEs may sit, from the docstring that says it, and every SAE that sae-lens lists."""
    places = "\n".join(line for line in str(hook_points.__doc__).splitlines() if line.startswith("|"))
    return f"## Hook points\n\n{places}\n\n## Releases\n\n{releases_markdown()}"


def families_markdown() -> str:
    """Families of models: those that `tests/family_table.py` tried, and those that are refused."""
    header, *rows = _csv("docs/models/families.csv")
    tried = table(header, ([f"`{family}`", *row] for family, *row in rows))
    refused = table(["`model_type`", "reason"], ([f"`{family}`", reason] for family, reason in sorted(REFUSED.items())))
    return f"## Families that were tried\n\n{tried}\n\n## Families that are refused\n\n{refused}\n"


def faults_markdown() -> str:
    """Every fault and attack that a test tries, by what it concerns."""
    header, *rows = _csv("tests/faults.csv")
    tables = {about: table(header[1:], ([*row[1:3], f"`{row[3]}`"] for row in several)) for about, several in groupby(rows, itemgetter(0))}
    return "\n".join(f"## {about}\n\n{shown}\n" for about, shown in tables.items())


def _csv(path: str) -> list[list[str]]:
    return list(csv.reader((ROOT / path).read_text(encoding="utf-8").splitlines()))


def formulas_markdown() -> str:
    """Every formula of the papers with the function that computes it; a test looks the functions up."""
    header, *rows = _csv("docs/formulas.csv")
    return table(header, ([*row[:2], re.sub(r"((?:saesteer|studies)[.\w]+)", r"`\1`", row[2])] for row in rows)) + "\n"


GENERATED = {
    "architecture": formulas_markdown,
    "reference/commands": commands,
    "reference/tables": tables_markdown,
    "reference/methods": registry_markdown,
    "reference/saes": saes_markdown,
    "reference/models": families_markdown,
    "reference/faults": faults_markdown,
}
"""Page -> what is put behind its own text."""


def _generated(_app: Sphinx, page: str, text: list[str]) -> None:
    if page in GENERATED:
        text[0] += "\n" + GENERATED[page]()


def _with_example(app: Sphinx, failure: Exception | None) -> None:
    """Put the example of a report beside the pages: its data and figure are kept in docs/example, its page is the package's."""
    if failure is None:
        example = app.outdir / "example"
        shutil.copytree(ROOT / "docs/example", example, dirs_exist_ok=True)
        for name in ASSETS:
            shutil.copyfile(ROOT / "src/saesteer/site/assets" / name, example / name)


def setup(app: Sphinx) -> None:
    """Sphinx's entry."""
    app.connect("source-read", _generated)
    app.connect("build-finished", _with_example)
