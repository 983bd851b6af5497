"""Train the world of the books from a file of paragraphs (docs/world.md says of what form): `make books PARAGRAPHS=file.parquet`."""

import argparse
import logging
from pathlib import Path

from saesteer.world.books.build import BooksBuild, BooksRecipe, build_books

ROOT = Path(__file__).resolve().parent.parent
N_PROMPTS = 20
"""The first neutral prefixes, which experiments use as prompts; labelled sentences begin with the others."""

if __name__ == "__main__":  # training starts processes that import this file
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paragraphs", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    openers = tuple((ROOT / "config" / "prefixes.txt").read_text(encoding="utf-8").splitlines()[N_PROMPTS:])
    build_books(BooksBuild(options.out, options.paragraphs, openers, options.seed, BooksRecipe()))
