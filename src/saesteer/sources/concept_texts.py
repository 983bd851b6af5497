"""The concepts that are asked for and their training texts, from a file of one's own or AxBench's published files (P4, arXiv 2501.17148,
section 4).

Which texts a concept gets depends on the seed and on the concept alone: asking for more of them keeps those that were there, and so does
asking for more concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.counter_rng import text_keys
from saesteer.core.files import text_id
from saesteer.core.tables.methods import ASKED_CONCEPTS, CONCEPT_TEXTS
from saesteer.core.tables.schema import Table, validate
from saesteer.settings import Experiment, NeuronpediaRecords, OwnTexts, SettingsError
from saesteer.sources.neuronpedia.sources import Source
from saesteer.sources.published import LabelledConcept, labelled_concepts, labelled_texts
from saesteer.sources.sae_sources import neuronpedia_source

ALGORITHM_VERSION = 1

SHARED = -1
"""AxBench's concept_id of negative texts."""


def published_texts(
    metadata: Path, train: Path, n_concepts: int | None, n_positive: int, n_negative: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """ASKED_CONCEPTS and CONCEPT_TEXTS rows of AxBench's list of concepts (metadata.jsonl) and training texts (train_data.parquet).

    The first `n_concepts` of the list (None: all), each with texts of its own and with negative texts from those that the concepts of its
    genre share; which of them, where there are more, depends on the seed.
    """
    listed = labelled_concepts(metadata)
    if n_concepts is not None and n_concepts > len(listed):
        raise SettingsError(f"{metadata} has {len(listed)} concepts, but methods.concepts.n_concepts asks for {n_concepts}: lower it")
    source = _Files(metadata, train)
    rows = []
    for one in listed[:n_concepts]:
        for positive, n_texts in ((True, n_positive), (False, n_negative)):
            drawn = _drawn(source.of(one, positive), f"{seed}/{one.concept}/{positive}", n_texts, source.where(one), positive)
            rows += [concept_row(one.concept, positive, place, *texts) for place, texts in enumerate(drawn)]
    concepts = [{"concept_id": text_id(one.concept), "concept": one.concept, "label_feature": one.feature} for one in listed[:n_concepts]]
    return concept_table(ASKED_CONCEPTS, concepts, str(metadata)), concept_table(CONCEPT_TEXTS, rows, str(train))


def own_texts(source: OwnTexts, prompts: Collection[str], n_positive: int, n_negative: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """ASKED_CONCEPTS and CONCEPT_TEXTS rows of a file of labelled texts: each concept's own texts, and the other named concepts' as
    negative ones; which of them, where there are more, depends on the seed. Texts that go on from one of the `prompts` are left out."""
    texts = _read_own(source.texts).filter(~pl.col("input").is_in(list(prompts)))
    named = texts.filter(pl.col("concept").is_in(source.names))
    rows = []
    for name in source.names:
        for positive, n_texts in ((True, n_positive), (False, n_negative)):
            among = named.filter((pl.col("concept") == name) == positive)
            drawn = _drawn(among, f"{seed}/{name}/{positive}", n_texts, f"{source.texts}: concept {name!r}", positive)
            rows += [concept_row(name, positive, place, *pair) for place, pair in enumerate(drawn)]
    concepts = [{"concept_id": text_id(name), "concept": name, "label_feature": None} for name in source.names]
    return concept_table(ASKED_CONCEPTS, concepts, str(source.texts)), concept_table(CONCEPT_TEXTS, rows, str(source.texts))


def _read_own(path: Path) -> pl.DataFrame:
    """concept, input (what a text goes on from) and output (the text), no text of a concept twice."""
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}
    if path.suffix not in readers:
        raise SettingsError(f"{path}: labelled texts are read from {', '.join(readers)} files: save them as one of these")
    try:
        frame = readers[path.suffix](path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    if missing := [name for name in ("concept", "text") if name not in frame.columns]:
        raise SettingsError(f"{path} has no column {' and no '.join(missing)}; it has {', '.join(frame.columns)}")
    opener = pl.col("opener").cast(pl.String).fill_null("") if "opener" in frame.columns else pl.lit("")
    named = frame.select(concept=pl.col("concept").cast(pl.String), input=opener, output=pl.col("text").cast(pl.String))
    if empty := [row for row, values in enumerate(named.iter_rows(), start=1) if not values[0] or not values[2]]:
        raise SettingsError(f"{path}, row {empty[0]}: a concept or a text is empty: fill it in, or leave the row out")
    return named.unique(["concept", "output"], keep="first", maintain_order=True)


def sae_names(experiment: Experiment) -> dict[int, str]:
    """Layer -> Neuronpedia's name of its SAE, e.g. 20-gemmascope-res-131k, where records.source or sae-lens' list gives one."""
    given = experiment.records.source if isinstance(experiment.records, NeuronpediaRecords) else None
    names = {layer: given.format(layer=layer) if given else neuronpedia_source(experiment.saes, layer) for layer in experiment.layers}
    return {layer: Source.parse(name).source for layer, name in names.items() if name}


def with_own_labels(concepts: pl.DataFrame, metadata: Path, saes: Mapping[int, str], by_label: Sequence[str]) -> pl.DataFrame:
    """ASKED_CONCEPTS rows of AxBench's list, without the features of SAEs other than the layers' (`saes`, from `sae_names`; where none is
    known, the list is trusted): the number means nothing there. Refused where methods (`by_label`) steer with the labelled feature, or
    where it is one layer's SAE and not another's."""
    own = {one.concept: _own_label(one, metadata, saes, by_label) for one in labelled_concepts(metadata)}
    labels = pl.col("concept").replace_strict(own, return_dtype=concepts.schema["label_feature"])
    return concepts.with_columns(label_feature=labels)


def _own_label(one: LabelledConcept, metadata: Path, saes: Mapping[int, str], by_label: Sequence[str]) -> int | None:
    foreign = [layer for layer in sorted(saes) if saes[layer] != one.source]
    if foreign and (by_label or len(foreign) < len(saes)):
        without = f", or take {', '.join(by_label)} out of methods.methods" if by_label else ""
        raise SettingsError(
            f"{metadata}, line {one.line}: {one.concept!r} labels feature {one.feature} of {one.source}, but layer {foreign[0]} has"
            f" {saes[foreign[0]]}: take the list of that SAE (each layer with a list of its own is an experiment of its own){without}"
        )
    return None if foreign else one.feature


def concept_table(table: Table, rows: list[dict[str, Any]], where: str) -> pl.DataFrame:
    return validate(table, pl.DataFrame(rows, schema=table.schema), where)


def concept_row(concept: str, positive: bool, number: int, before: str, text: str) -> dict[str, Any]:
    return {"concept_id": text_id(concept), "positive": positive, "number": number, "input": before, "output": text}


class _Files:
    """AxBench's two files together."""

    def __init__(self, metadata: Path, train: Path) -> None:
        self.metadata, self.train = metadata, train
        texts = labelled_texts(train)
        self._positive = texts.filter(category="positive").partition_by("concept_id", as_dict=True)
        self._shared = texts.filter(pl.col("concept_id") == SHARED, category="negative").partition_by("concept_genre", as_dict=True)
        self._none = texts.clear()

    def where(self, one: LabelledConcept) -> str:
        """What errors call a concept."""
        return f"{self.train}: concept_id {one.number} ({one.concept!r}; {self.metadata}, line {one.line})"

    def of(self, one: LabelledConcept, positive: bool) -> pl.DataFrame:
        """A concept's own texts, or those that its genre shares."""
        if positive:
            return self._own(one)
        if (one.genre,) not in self._shared:
            known = ", ".join(sorted(genre for (genre,) in self._shared)) or "none"
            raise SettingsError(f"{self.where(one)}: genre {one.genre!r} has no negative texts (concept_id {SHARED}); there are: {known}")
        return self._shared[(one.genre,)]

    def _own(self, one: LabelledConcept) -> pl.DataFrame:
        texts = self._positive.get((one.number,), self._none)
        other = texts.filter(pl.col("output_concept") != one.concept)
        if len(other):
            row, name = other.select("row", "output_concept").row(0)
            raise SettingsError(f"{self.where(one)}: output_concept in row {row} is {name!r}; take both files from one set of concepts")
        return texts


def _drawn(texts: pl.DataFrame, name: str, n_texts: int, where: str, positive: bool) -> list[tuple[str, str]]:
    """Inputs and outputs of `n_texts` rows, in an order that depends on the name and on what they say, not on where they stand."""
    kind = "positive" if positive else "negative"
    if len(texts) < n_texts:
        raise SettingsError(f"{where} has {len(texts)} {kind} texts, but methods.n_{kind} asks for {n_texts}: lower it")
    pairs = sorted(texts.select("input", "output").iter_rows())
    keys = text_keys(f"{name}/{before}\0{text}" for before, text in pairs).tolist()
    return [pair for _, pair in sorted(zip(keys, pairs, strict=True))][:n_texts]
