"""Pictures of a report's pages for the documentation: `python docs/screenshots.py figures/tiny/report 6/548`, in the system's Chromium."""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("report", type=Path)
parser.add_argument("feature", help="LAYER/FEATURE")
parser.add_argument("--out", type=Path, default=Path(__file__).parent)
options = parser.parse_args()
PAGES = {
    "features": ("features", "Features"),
    "feature": (f"feature/{options.feature}", f"Feature {options.feature}"),
    "factors": (f"feature/{options.feature}", "How hard: by factor"),
    "texts": (f"feature/{options.feature}", "Steered texts"),
}
"""Picture -> page, and the heading at its top."""

with sync_playwright() as playwright:
    # Chromium's own sandbox needs rights that root and many containers have not; the report was made here.
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    for name, (route, heading) in PAGES.items():
        page = browser.new_page(viewport={"width": 1200, "height": 720})
        page.goto(f"{(options.report / 'index.html').resolve().as_uri()}#/{route}")
        page.wait_for_selector("main h1")
        page.wait_for_selector("main [role=status]:has-text('Loading')", state="detached")
        page.get_by_role("heading", name=heading, exact=True).evaluate("(one) => one.scrollIntoView()")
        page.wait_for_timeout(500)  # for curves and rows to be drawn
        page.screenshot(path=options.out / f"report-{name}.png")
        page.close()
    browser.close()
