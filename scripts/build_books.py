"""Train the world of the books from a file of paragraphs (docs/world.md says of what form): `make books PARAGRAPHS=file.parquet`.

With `--sae-seed`, SAEs of a further seed on its finished model instead, beside its own: `make books-saes`. With `--kinds`, SAEs of other
kinds and sparsities at these layers: `make books-kinds`.
"""

import argparse
import logging
from pathlib import Path

from saesteer.world.books.build import BooksBuild, BooksRecipe, build_books, train_saes_of_seed
from saesteer.world.books.kinds import train_kinds

ROOT = Path(__file__).resolve().parent.parent
N_PROMPTS = 20
"""The first neutral prefixes, which experiments use as prompts; labelled sentences begin with the others."""

if __name__ == "__main__":  # training starts processes that import this file
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paragraphs", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--sae-seed", type=int)
    instead.add_argument("--kinds", type=int, nargs="+", metavar="LAYER")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    openers = tuple((ROOT / "config" / "prefixes.txt").read_text(encoding="utf-8").splitlines()[N_PROMPTS:])
    build = BooksBuild(options.out, options.paragraphs, openers, options.seed, BooksRecipe())
    if options.kinds:
        train_kinds(build, options.kinds, options.out / "kinds")
    elif options.sae_seed is None:
        build_books(build)
    else:
        train_saes_of_seed(build, options.sae_seed, options.out / f"saes_seed_{options.sae_seed}")
