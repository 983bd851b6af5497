"""The files of an experiment's tables, as a report lists them: where each lies, its digest, and what its columns mean."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saesteer.core.files import file_digest
from saesteer.core.tables import Table
from saesteer.run import Run

_SAES = {"saes": Table("saes", (), {})}
"""Numbers come from these manifests, too, though they are of no table."""


def listed_files(run: Run, summaries: Mapping[str, Table], steps: Mapping[str, Table], folder: Path) -> list[dict[str, Any]]:
    """Each table that is there: its files as seen from the report's folder, with digests, and what its columns mean."""
    there = [(table, [run.summary_path(table)]) for table in summaries.values()]
    there += [(table, run.present_manifests(name)) for name, table in {**steps, **_SAES}.items()]
    return [
        {
            "table": table.name,
            "files": [[f"{run.name}/{path.relative_to(run.data).as_posix()}", _address(path, folder), file_digest(path)] for path in paths],
            "columns": [[name, column.meaning, column.null_when] for name, column in table.columns.items()],
        }
        for table, paths in there
        if paths and paths[0].is_file()
    ]


def _address(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
