"""The tables and figures of the open questions, collected from their modules, and what an experiment has of them."""

import functools
from pathlib import Path

import grimp

import studies.questions.figures
import studies.questions.summaries
from saesteer.core.modules import declared, module_file
from saesteer.figures.registry import in_order
from saesteer.run import Run
from saesteer.workflow.code_digest import code_digest
from studies import ROOT
from studies.questions.experiments import steers_every_feature

SUMMARIES = declared(studies.questions.summaries, "SUMMARY")
FIGURES = in_order(studies.questions.figures)
TABLES = {table.name: table for of_module in SUMMARIES.values() for table in of_module.tables}


QUESTION_TABLES = {
    table.name: table
    for of_module in SUMMARIES.values()
    if of_module.exists is steers_every_feature and of_module.file is None
    for table in of_module.tables
}
"""What steering every feature says, of all layers together: the tables that git keeps."""


def further_outputs(run: Run) -> list[str]:
    """The files that the study makes of an experiment besides the product's."""
    summaries = [of_module for of_module in SUMMARIES.values() if of_module.exists(run.experiment)]
    tables = {table.name for of_module in summaries for table in of_module.tables}
    figures = [name for name, figure in FIGURES.items() if tables.issuperset(figure.tables)]
    files = [run.data / file for of_module in summaries for file in of_module.files(run.experiment)]
    return [str(path) for path in (*files, *(run.figures / f"{name}.pdf" for name in figures))]


def code_of(module: str, script: Path) -> str:
    """Digest of a script, of a module of this package, and of all that they import."""
    files = (module_file(ROOT, name) for name in sorted(modules_behind(module)))
    return code_digest("figures.save", scripts=(script, *files))


def modules_behind(module: str) -> set[str]:
    """A module of this package, and the studies' modules that it imports, directly or not."""
    name = f"{__package__}.{module}"
    return {name, *_graph().find_upstream_modules(name)}


@functools.cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("studies", exclude_type_checking_imports=True, cache_dir=None)
