"""The documentation's table of how far two corpora agree on the books' features. Nobody types a number."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from saesteer.analysis.record_agreement import record_agreement
from saesteer.core.files import write_text
from saesteer.core.markdown import table, with_interval
from saesteer.core.tables import FEATURES, read_summary
from saesteer.core.tables.questions import RECORD_AGREEMENT
from saesteer.settings import SelectionSettings

KEPT = "record_agreement.csv"


def keep_results(own: Sequence[Path], other: Sequence[Path], settings: SelectionSettings, folder: Path) -> None:
    """Keep the agreement of two experiments' FEATURES in git, rounded."""
    first, second = (pl.concat([read_summary(FEATURES, file) for file in sorted(files)]) for files in (own, other))
    write_text(folder / KEPT, record_agreement(first, second, settings).write_csv(float_precision=4))


def records_markdown(folder: Path) -> str:
    """The table, a row a layer."""
    rows = pl.read_csv(folder / KEPT, schema=RECORD_AGREEMENT.schema)
    header = ["layer", "features", "input score", "largest record", "density", "with a concept: own texts", "books", "both", "the same"]
    rhos = ("rho_input_score", "rho_max_activation", "rho_density")
    counts = ("n_concept", "n_other_concept", "n_both", "n_same")
    lines = (
        [row["layer"], row["n"], *(with_interval(row, name) for name in rhos), *(row[name] for name in counts)]
        for row in rows.iter_rows(named=True)
    )
    return table(header, lines) + "\n"
