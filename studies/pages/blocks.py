"""The generated blocks of the pages: which page a block stands on, and what writes it."""

from collections.abc import Callable
from pathlib import Path

from saesteer.core.markdown import table
from saesteer.settings import SettingsError
from saesteer.site.headline import HEADLINE_COLUMNS, finding_rows, headline_markdown
from studies.pages import tables
from studies.pages.answers import answers_markdown
from studies.pages.results import SHIPPED, metrics

PAGES: dict[str, dict[str, Callable[[Path], str]]] = {
    "README.md": {"demonstration": tables.demonstration, "answers": answers_markdown},
    "docs/tutorial.md": {"headline": lambda root: headline_markdown(metrics(root, SHIPPED)).rstrip()},
    "docs/reference/saes.md": {"saes": tables.saes_markdown},
    "docs/findings.md": {"answers": answers_markdown, "carried-over": tables.carried_over_markdown},
    "docs/known-truth.md": {"findings": lambda root: table(HEADLINE_COLUMNS, finding_rows(metrics(root, SHIPPED)))},
    "docs/tables/public-models.md": {
        "headlines": tables.headlines_markdown,
        "grid-ends": tables.grid_ends_markdown,
        "methods": tables.methods_markdown,
        "recommendations": tables.recommendations_markdown,
        "tries": tables.tries_markdown,
        "picks": tables.picks_markdown,
        "brute-force": tables.brute_force_markdown,
        "judges": tables.judges_markdown,
    },
}
"""Page -> its generated blocks by name, each with what writes its text from the repository's root."""


def written(root: Path, page: str, text: str) -> str:
    """A page's text with its blocks anew."""
    for name, block in PAGES[page].items():
        text = with_block(page, text, name, block(root) + "\n")
    return text


def with_block(page: str, text: str, name: str, block: str) -> str:
    """A page's text with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, opened, from_block = text.partition(start)
    _, closed, after = from_block.partition(end)
    if not (opened and closed):
        raise SettingsError(f"{page} has no lines <!-- {name} --> and <!-- /{name} -->: put them back where the table belongs")
    return f"{before}{start}{block}{end}{after}"
