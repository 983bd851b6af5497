"""Pictures of a report's pages for the documentation: `python docs/screenshots.py figures/tiny/report 6/548`, in the system's Chromium."""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("report", type=Path)
parser.add_argument("feature", help="LAYER/FEATURE")
options = parser.parse_args()
PAGES = {"overview": "", "features": "#/features", "feature": f"#/feature/{options.feature}"}
SIZES = {"": {"width": 1400, "height": 900}, "-phone": {"width": 400, "height": 800}}

with sync_playwright() as playwright:
    # Chromium's own sandbox needs rights that root and many containers have not; the report was made here.
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    for name, route in PAGES.items():
        for size, viewport in SIZES.items():
            page = browser.new_page(viewport=viewport)
            page.goto(f"{(options.report / 'index.html').resolve().as_uri()}{route}")
            page.wait_for_selector("main h1")
            page.wait_for_selector("main [role=status]:has-text('Loading')", state="detached")
            page.wait_for_timeout(500)  # for curves and rows to be drawn
            page.screenshot(path=Path(__file__).parent / f"report-{name}{size}.png")
            page.close()
    browser.close()
