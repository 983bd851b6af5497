"""What this repository trains and measures with the package to say something about it: the shipped world, the public models, the open
questions, and the pages' results.

Nothing in the package imports from here. Commands run from the repository's root: `python -m studies.world`, `python -m studies.public`,
`python -m studies.pages`.
"""

from pathlib import Path

from saesteer.settings import Experiment, load_experiment

ROOT = Path(__file__).parents[1]
"""The repository."""


def open_experiment(name: str, root: Path = ROOT) -> Experiment:
    """An experiment that a clone can run, or one on models and SAEs that are trained here first."""
    return load_experiment(name, root / "config/experiments", root / "studies/experiments")
