"""Train the world of the books: `python -m studies.books COMMAND`, from the repository's root.

What it is trained on is a file of paragraphs, which is not shipped: columns as in `studies.books.paragraphs`.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from studies import ROOT
from studies.books import build
from studies.books.build import BooksBuild, BooksRecipe

N_PROMPTS = 20
"""The first neutral prefixes, which experiments use as prompts; labelled sentences begin with the others."""
SHIPPED, SEED_0 = ROOT / "data/world-books", ROOT / "build/books/seed_0"
Paragraphs = Annotated[Path, typer.Option(help="Parquet file of paragraphs.")]

app = typer.Typer(help=__doc__, add_completion=False)


@app.callback()
def log() -> None:
    """Training says how far it is."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


@app.command("build")
def build_seed(paragraphs: Paragraphs, seed: Annotated[int, typer.Option()], out: Annotated[Path, typer.Option()]) -> None:
    """Train the world of the books, or go on where it was stopped."""
    openers = tuple((ROOT / "config/prefixes.txt").read_text(encoding="utf-8").splitlines()[N_PROMPTS:])
    build.build_books(BooksBuild(out, paragraphs, openers, seed, BooksRecipe()))


@app.command()
def adopt(books: Annotated[Path, typer.Option(help="Table of the books (CSV).")]) -> None:
    """Ship build/books/seed_0 with the table of its books, and write the card."""
    build.adopt(SEED_0, books, SHIPPED)


if __name__ == "__main__":
    app()
