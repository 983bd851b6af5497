"""Paste the results of finished experiments into the README and docs/: `python -m studies.pages`, from the repository's root."""

import sys

from saesteer.core.errors import SaesteerError
from saesteer.core.files import write_text
from studies import ROOT
from studies.pages.blocks import PAGES, written
from studies.pages.results import update_results

if __name__ == "__main__":
    try:
        update_results(ROOT)
        for page in PAGES:
            write_text(ROOT / page, written(ROOT, page, (ROOT / page).read_text(encoding="utf-8")))
    except SaesteerError as error:
        sys.exit(str(error))
