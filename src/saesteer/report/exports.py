"""What a finished comparison of methods gives to others: AxBench's table of results, and fitted vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from saesteer.core.files import text_id, write_atomically
from saesteer.core.tables import FITS, GENERATIONS, JUDGEMENTS, PERPLEXITY, of_fits
from saesteer.methods.compare.layers import at_every_layer
from saesteer.methods.compare.protocol import Rows
from saesteer.methods.fit.vectors_file import write_vectors
from saesteer.report.axbench_format import to_axbench
from saesteer.report.step_rows import asked_concepts, rows_of
from saesteer.settings import Experiment, NamedConcepts, SettingsError, settings_of
from saesteer.sources.prefixes import prompts_in_order
from saesteer.sources.published import kept_at, labelled_concepts


def export_axbench(experiment: Experiment, data: Path, name: str, folder: Path) -> Iterator[Path]:
    """Write a layer's results to FOLDER/layer_LL/steering_data.parquet, for each layer (P4, arXiv 2501.17148); gives the files."""
    if experiment.methods is None:
        raise SettingsError(f"{name} compares no methods, so there is nothing of AxBench's form in it: name a comparison")
    settings = settings_of(experiment)
    prompts = prompts_in_order(experiment, data / "downloads")
    tables = [
        *(of_fits(rows_of(table, data / name, experiment)) for table in (GENERATIONS, PERPLEXITY, JUDGEMENTS)),
        rows_of(FITS, data / name, experiment),
    ]
    texts, losses, ratings, fits = (at_every_layer(table, experiment.layers) for table in tables)
    rows = Rows(texts, losses, ratings, fits, asked_concepts(data / name))
    dataset = "AlpacaEval" if settings.published_prompts == "alpaca_eval/instructions" else "prompts"
    for layer in sorted(experiment.layers):
        path = folder / f"layer_{layer:02d}" / "steering_data.parquet"
        write_atomically(path, to_axbench(rows, _order(experiment, data), prompts, layer, dataset).write_parquet)
        yield path


def export_vectors(experiment: Experiment, data: Path, name: str, method: str, layer: int, path: Path) -> None:
    """Write the unit vectors that a method fitted at a layer: safetensors, a tensor a concept, as the method from_file reads them."""
    write_vectors(rows_of(FITS, data / name, experiment, [layer]), asked_concepts(data / name), method, path)


def _order(experiment: Experiment, data: Path) -> list[str]:
    """concept_ids in the order of their source."""
    concepts = settings_of(experiment).concepts
    if isinstance(concepts, NamedConcepts):
        return [text_id(name) for name in concepts.names]
    return [text_id(one.concept) for one in labelled_concepts(kept_at(concepts.concepts, data / "downloads"))[: concepts.n_concepts]]
