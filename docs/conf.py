"""The documentation site: `make docs` builds it into build/docs, without a network and with every warning an error.

Sphinx with MyST and furo: mkdocs-material, the other candidate, is in maintenance mode. What can be derived from the code is derived
when the site is built (`GENERATED`, autodoc), so there is no copy to forget.
"""

import typer
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

from saesteer.cli import app
from saesteer.report.reference.method_docs import registry_markdown
from saesteer.report.reference.sae_docs import releases_markdown
from saesteer.report.reference.table_docs import tables_markdown

project, author, html_title = "saesteer", "The saesteer developers", "saesteer"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["captions.rst"]
html_theme = "furo"
html_show_copyright = False
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


GENERATED = {
    "reference/commands": commands,
    "reference/tables": tables_markdown,
    "reference/methods": registry_markdown,
    "reference/saes": releases_markdown,
}
"""Page -> what is put behind its own text."""


def _generated(_app: Sphinx, page: str, text: list[str]) -> None:
    if page in GENERATED:
        text[0] += "\n" + GENERATED[page]()


def setup(app: Sphinx) -> None:
    """Sphinx's entry."""
    app.connect("source-read", _generated)
