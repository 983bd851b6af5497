"""What a finished comparison of methods gives to others: AxBench's table of results, and fitted vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from saesteer.core.files import text_id, write_atomically
from saesteer.core.tables import ASKED_CONCEPTS, FITS, GENERATIONS, JUDGEMENTS, PERPLEXITY, of_fits
from saesteer.methods.compare.layers import at_every_layer
from saesteer.methods.compare.protocol import Rows
from saesteer.methods.fit.vectors_file import write_vectors
from saesteer.report.axbench_format import to_axbench
from saesteer.run import Run
from saesteer.settings import NamedConcepts
from saesteer.sources.published import kept_at, labelled_concepts


def export_axbench(run: Run, folder: Path) -> Iterator[Path]:
    """Write a layer's results to FOLDER/layer_LL/steering_data.parquet, for each layer (P4, arXiv 2501.17148); gives the files."""
    experiment = run.comparison
    tables = [*(of_fits(run.rows(table)) for table in (GENERATIONS, PERPLEXITY, JUDGEMENTS)), run.rows(FITS)]
    texts, losses, ratings, fits = (at_every_layer(table, experiment.layers) for table in tables)
    rows, prompts = Rows(texts, losses, ratings, fits, run.summary(ASKED_CONCEPTS)), run.prompts()
    dataset = "AlpacaEval" if experiment.methods.published_prompts == "alpaca_eval/instructions" else "prompts"
    for layer in run.layers:
        path = folder / f"layer_{layer:02d}" / "steering_data.parquet"
        write_atomically(path, to_axbench(rows, _order(run), prompts, layer, dataset).write_parquet)
        yield path


def export_vectors(run: Run, method: str, layer: int, path: Path) -> None:
    """Write the unit vectors that a method fitted at a layer: safetensors, a tensor a concept, as the method from_file reads them."""
    write_vectors(run.rows(FITS, [layer]), run.summary(ASKED_CONCEPTS), method, path)


def _order(run: Run) -> list[str]:
    """concept_ids in the order of their source."""
    concepts = run.comparison.methods.concepts
    if isinstance(concepts, NamedConcepts):
        return [text_id(name) for name in concepts.names]
    return [text_id(one.concept) for one in labelled_concepts(kept_at(concepts.concepts, run.downloads))[: concepts.n_concepts]]
