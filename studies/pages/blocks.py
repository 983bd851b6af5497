"""The generated blocks of the pages: which page a block stands on, and the table that it shows."""

from collections.abc import Callable, Iterator
from pathlib import Path

from saesteer.reference.sae_docs import Release, releases, verdict
from saesteer.settings import SettingsError
from saesteer.site.headline import findings_markdown, headline_markdown
from studies.pages import findings, public
from studies.pages.carried_over import CARRIED_OVER
from studies.pages.grid_ends import GRID_ENDS
from studies.pages.tables import Row, Shown


def _sae_classes(_root: Path) -> Iterator[Row]:
    """Counts of the SAEs that sae-lens lists, by place, form and what is said of them, and in all."""
    listed = releases()
    classes: dict[tuple[str, str, str], list[Release]] = {}
    for release in listed:
        classes.setdefault((", ".join(release.hook_points), release.form, verdict(release)), []).append(release)
    for (place, form, reading), group in sorted(classes.items()):
        yield {"place": place, "form": f"`{form}`", "releases": len(group), "n": sum(release.n for release in group), "verdict": reading}
    usable = sum(release.n for release in listed if release.reason is None)
    names = {release.name for release in listed}
    yield {"place": "in all", "form": "", "releases": len(names), "n": sum(release.n for release in listed), "verdict": f"{usable:,}"}


SAES = Shown(_sae_classes, "place form verdict", {
    "hook point": "place", "form": "form", "releases": "releases", "SAEs": "n ,", "can be used": "verdict",
})  # fmt: skip
PAGES: dict[str, dict[str, Callable[[Path], str]]] = {
    "README.md": {"demonstration": public.demonstration, "answers": public.answers_markdown},
    "docs/tutorial.md": {"headline": lambda root: headline_markdown(findings.metrics(root, "tiny")).rstrip()},
    "docs/reference/saes.md": {"saes": SAES.markdown},
    "docs/findings.md": {"answers": public.answers_markdown, "carried-over": CARRIED_OVER.markdown},
    "docs/known-truth.md": {"findings": lambda root: findings_markdown(findings.metrics(root, "tiny")).rstrip()},
    "docs/tables/public-models.md": {"headlines": public.headlines_markdown, "grid-ends": GRID_ENDS.markdown},
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
