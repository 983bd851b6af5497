"""Ship build/books/seed_0 with the table of its books, and write the card: `make books-adopt BOOKS=books.csv`."""

import argparse
from pathlib import Path

from saesteer.world.books.build import adopt

ROOT = Path(__file__).resolve().parent.parent

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--books", type=Path, required=True)
options = parser.parse_args()
adopt(ROOT / "build" / "books" / "seed_0", options.books, ROOT / "data" / "world-books")
