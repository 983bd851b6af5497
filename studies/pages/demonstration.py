"""The README's demonstration, by docs/plan.md: SmolLM2's texts, unsteered and steered by what `recommend` says of a concept."""

from pathlib import Path

import polars as pl

from saesteer.core.markdown import escaped, table
from studies.public.recommendations import DEMONSTRATION, FOLDER


def demonstration(root: Path) -> str:
    """A Markdown table of the plan's prompts, a column unsteered and one steered, from results in git."""
    rows = pl.read_csv(root / FOLDER / "demonstration.csv", schema=DEMONSTRATION)
    first = rows.row(0, named=True)
    steered = f"feature {first['layer']}/{first['feature']}, factor {first['factor']}"
    texts = rows.select("prompt", "unsteered", "steered").iter_rows()
    return table(["prompt", "unsteered", steered], [[prompt, *(escaped(text.strip()) for text in both)] for prompt, *both in texts])
