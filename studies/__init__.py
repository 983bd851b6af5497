"""What this repository trains and measures with the package to say something about it: the shipped worlds, and the pages' results.

Nothing in the package imports from here. Commands run from the repository's root: `python -m studies.world`, `python -m studies.books`,
`python -m studies.pages`.
"""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""
