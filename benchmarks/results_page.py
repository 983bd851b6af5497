"""The page benchmarks/RESULTS.md: one section a benchmark, each written by its program, none touching the others'."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).with_name("RESULTS.md")


def write_section(page: Path, text: str) -> None:
    """Put a section (it starts with its `# ` title) in the place of the one with the same title, or at the end."""
    title = text.splitlines()[0]
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    sections = [section.strip() + "\n" for section in re.split(r"^(?=# )", old, flags=re.MULTILINE) if section.strip()]
    titles = [section.splitlines()[0] for section in sections]
    place = titles.index(title) if title in titles else len(sections)
    page.write_text("\n".join([*sections[:place], text.strip() + "\n", *sections[place + 1 :]]), encoding="utf-8")
