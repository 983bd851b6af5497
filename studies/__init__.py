"""What this repository trains and measures with the package to say something about it: the shipped world, the public models, and the
pages' results.

Nothing in the package imports from here. Commands run from the repository's root: `python -m studies.world`, `python -m studies.public`,
`python -m studies.pages`.
"""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""
