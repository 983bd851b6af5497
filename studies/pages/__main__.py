"""Paste the results of finished experiments into the README and docs/: `python -m studies.pages`, from the repository's root."""

import shutil
import sys
from functools import partial
from pathlib import Path

from saesteer.core.errors import SaesteerError
from saesteer.core.files import write_atomically, write_text
from saesteer.figures.save import save_drawing, save_figure
from studies import ROOT
from studies.pages import answer_figure, schematic
from studies.pages.blocks import PAGES, written
from studies.pages.results import update_results

COPIED = {"overview": "tiny/overview", "filter-variants": "tiny/filter_variants"}
"""Figure of the documentation -> the figure that it is a copy of."""


def write_figures(root: Path) -> None:
    """Draw what is drawn for the documentation alone, and copy the others where they were drawn here."""
    answered = answer_figure.data(root)
    save_figure(answer_figure.draw(answered), answered, root / "docs/answer")
    save_drawing(schematic.draw(), root / "docs/schematic")
    for name, figure in COPIED.items():
        if (drawn := root / f"figures/{figure}.png").is_file():
            write_atomically(root / f"docs/{name}.png", partial(shutil.copyfile, drawn))


if __name__ == "__main__":
    try:
        update_results(ROOT)
        write_figures(ROOT)
        for page in PAGES:
            write_text(ROOT / page, written(ROOT, page, (ROOT / page).read_text(encoding="utf-8")))
    except SaesteerError as error:
        sys.exit(str(error))
