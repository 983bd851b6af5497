"""What the benchmarks share: seconds used by a piece of work, the machine's own speed, how busy it is with something else, and the page
benchmarks/RESULTS.md: one section a benchmark, each written by its program, none touching the others'."""

from __future__ import annotations

import argparse
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True)
class Used:
    """Seconds that a piece of work took, and what came out."""

    process: float  # of this process' threads: what counts on a shared machine
    wall: float
    result: Any


def used(work: Callable[[], Any]) -> Used:
    """Run once."""
    wall, process = time.perf_counter(), time.process_time()
    result = work()
    return Used(time.process_time() - process, time.perf_counter() - wall, result)


def peak_flops() -> float:
    """Operations a second of one large float32 matrix product, best of five, by process time."""
    size = 2048
    left, right = (torch.randn(size, size) for _ in range(2))
    return 2 * size**3 / min(used(lambda: left @ right).process for _ in range(5))


def load_note() -> str:
    """Under which load numbers were taken."""
    one, five, _ = os.getloadavg()
    return f"{platform.machine()}, {os.cpu_count()} CPUs, load average {one:.1f} (1 min) and {five:.1f} (5 min) at the end"


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """What every benchmark's command line has; the module's docstring is its help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", default=str(PAGE), help="page whose section is replaced; none: printed only")
    return parser


def written_by(title: str, command: str) -> list[str]:
    """The first lines of a section; README's table of measurements reads the command."""
    return [f"# {title}", "", f"Written by `{command}`; the numbers are measured, not typed."]


def publish(lines: list[str], where: str) -> None:
    """Print a section and put it in the page."""
    print("\n".join(lines))
    if where != "none":
        write_section(Path(where), "\n".join(lines))


def write_section(page: Path, text: str) -> None:
    """Put a section (it starts with its `# ` title) in the place of the one with the same title, or at the end."""
    title = text.splitlines()[0]
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    sections = [section.strip() + "\n" for section in re.split(r"^(?=# )", old, flags=re.MULTILINE) if section.strip()]
    titles = [section.splitlines()[0] for section in sections]
    place = titles.index(title) if title in titles else len(sections)
    page.write_text("\n".join([*sections[:place], text.strip() + "\n", *sections[place + 1 :]]), encoding="utf-8")
