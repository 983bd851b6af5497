"""The concepts that are asked for and their training texts, from a file of one's own or AxBench's published files (P4, arXiv 2501.17148,
section 4).

Which texts a concept gets depends on the seed and on the concept alone: asking for more of them keeps those that were there. Of a file of
one's own, a concept's negative texts are the other named concepts'.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.counter_rng import text_keys
from saesteer.core.errors import check_known
from saesteer.core.files import text_id
from saesteer.core.tables import Table, validate
from saesteer.settings import LabelledTexts, SettingsError
from saesteer.sources.concept_tables import COMPARED_CONCEPTS, CONCEPT_TEXTS
from saesteer.sources.encoding import refuse_missing, table_of
from saesteer.sources.published import labelled_concepts, labelled_texts

ALGORITHM_VERSION = 2

SHARED = -1
"""AxBench's concept_id of negative texts."""


def published_texts(
    metadata: Path, train: Path, n_concepts: int | None, n_positive: int, n_negative: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """COMPARED_CONCEPTS and CONCEPT_TEXTS rows of AxBench's list of concepts (metadata.jsonl) and training texts (train_data.parquet).

    The first `n_concepts` of the list (None: all), each with texts of its own and with negative texts from those that the concepts of its
    genre share; which of them, where there are more, depends on the seed.
    """
    listed = labelled_concepts(metadata)
    if n_concepts is not None and n_concepts > len(listed):
        raise SettingsError(f"{metadata} has {len(listed)} concepts, but methods.concepts.n_concepts asks for {n_concepts}: lower it")
    texts = labelled_texts(train)
    positive_texts = texts.filter(category="positive").partition_by("concept_id", as_dict=True)
    negative_texts = texts.filter(pl.col("concept_id") == SHARED, category="negative").partition_by("concept_genre", as_dict=True)
    rows = []
    for labelled in listed[:n_concepts]:
        concept, where = labelled.concept, f"{train}: concept_id {labelled.number} ({labelled.concept!r}; {metadata}, line {labelled.line})"
        candidates = positive_texts.get((labelled.number,), texts.clear())
        of_others = candidates.filter(pl.col("output_concept") != concept)
        if len(of_others):
            row, name = of_others.select("row", "output_concept").row(0)
            raise SettingsError(f"{where}: output_concept in row {row} is {name!r}; take both files from one set of concepts")
        if (labelled.genre,) not in negative_texts:
            genres = ", ".join(sorted(genre for (genre,) in negative_texts)) or "none"
            raise SettingsError(f"{where}: genre {labelled.genre!r} has no negative texts (concept_id {SHARED}); there are: {genres}")
        rows += _rows(candidates, concept, True, n_positive, seed, where)
        rows += _rows(negative_texts[(labelled.genre,)], concept, False, n_negative, seed, where)
    concepts = [
        {"concept_id": text_id(labelled.concept), "concept": labelled.concept, "label_feature": labelled.feature}
        for labelled in listed[:n_concepts]
    ]
    return concept_table(COMPARED_CONCEPTS, concepts, str(metadata)), concept_table(CONCEPT_TEXTS, rows, str(train))


def texts_of_file(
    source: LabelledTexts, prompts: Collection[str], n_positive: int, n_negative: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """COMPARED_CONCEPTS and CONCEPT_TEXTS rows of a file of labelled texts: each concept's texts, and as negative ones those of the other
    named concepts that are not of this one too; which of them, where there are more, depends on the seed. Texts that go on from one of the
    `prompts` are left out."""
    texts = _read_labelled(source.texts).filter(~pl.col("input").is_in(list(prompts)))
    for name in source.names:
        check_known("concept", name, sorted(set(texts["concept"])))
    named = texts.filter(pl.col("concept").is_in(source.names))
    rows = []
    for name in source.names:
        positive = named.filter(concept=name)
        others = named.join(positive, on="output", how="anti").sort("output", "input")
        negative = others.unique("output", keep="first", maintain_order=True)
        for texts_of_side, is_positive, n_texts in ((positive, True, n_positive), (negative, False, n_negative)):
            rows += _rows(texts_of_side, name, is_positive, n_texts, seed, f"{source.texts}: concept {name!r}")
    concepts = [{"concept_id": text_id(name), "concept": name, "label_feature": None} for name in source.names]
    return concept_table(COMPARED_CONCEPTS, concepts, str(source.texts)), concept_table(CONCEPT_TEXTS, rows, str(source.texts))


def _read_labelled(path: Path) -> pl.DataFrame:
    """concept, input (what a text goes on from) and output (the text), no text of a concept twice."""
    frame = table_of(path, lambda name: name in ("concept", "text", "opener"))
    refuse_missing(path, frame, ("concept", "text"))
    opener = pl.col("opener").fill_null("") if "opener" in frame.columns else pl.lit("")
    named = frame.select(concept="concept", input=opener, output="text")
    if empty := [
        row for row, values in enumerate(named.iter_rows(), start=1) if not (values[0] or "").strip() or not (values[2] or "").strip()
    ]:
        raise SettingsError(f"{path}, row {empty[0]}: a concept or a text is empty: fill it in, or leave the row out")
    return named.unique(["concept", "output"], keep="first", maintain_order=True)


def with_labels(concepts: pl.DataFrame, metadata: Path, saes: Mapping[int, str], by_label: Sequence[str]) -> pl.DataFrame:
    """COMPARED_CONCEPTS rows of AxBench's list, without the features of SAEs other than the layers': their numbers mean nothing there.

    `saes` has Neuronpedia's name of each layer's SAE, e.g. 20-gemmascope-res-131k; without any the list is trusted. Refused where methods
    (`by_label`) steer with the labelled feature, or where it is one layer's SAE and not another's.
    """
    labels: dict[str, int | None] = {}
    for listed in labelled_concepts(metadata):
        foreign = [layer for layer in sorted(saes) if saes[layer] != listed.source]
        if foreign and (by_label or len(foreign) < len(saes)):
            without = f", or take {', '.join(by_label)} out of methods.methods" if by_label else ""
            raise SettingsError(
                f"{metadata}, line {listed.line}: {listed.concept!r} labels feature {listed.feature} of {listed.source}, but layer"
                f" {foreign[0]} has {saes[foreign[0]]}: take the list of that SAE (each layer with a list of its own is an experiment of"
                f" its own){without}"
            )
        labels[listed.concept] = None if foreign else listed.feature
    label_feature = pl.col("concept").replace_strict(labels, return_dtype=concepts.schema["label_feature"])
    return concepts.with_columns(label_feature=label_feature)


def concept_table(table: Table, rows: list[dict[str, Any]], where: str) -> pl.DataFrame:
    return validate(table, pl.DataFrame(rows, schema=table.schema), where)


def concept_row(concept: str, positive: bool, number: int, before: str, text: str) -> dict[str, Any]:
    return {"concept_id": text_id(concept), "positive": positive, "number": number, "input": before, "output": text}


def _rows(texts: pl.DataFrame, concept: str, positive: bool, n_texts: int, seed: int, where: str) -> list[dict[str, Any]]:
    """CONCEPT_TEXTS rows of `n_texts` of the texts, drawn by the seed, the concept and what they say, not by where they stand."""
    kind = "positive" if positive else "negative"
    if len(texts) < n_texts:
        raise SettingsError(f"{where} has {len(texts)} {kind} texts, but methods.n_{kind} asks for {n_texts}: lower it")
    pairs = sorted(texts.select("input", "output").iter_rows())
    keys = text_keys(f"{seed}/{concept}/{positive}/{before}\0{text}" for before, text in pairs).tolist()
    drawn = [pair for _, pair in sorted(zip(keys, pairs, strict=True))][:n_texts]
    return [concept_row(concept, positive, number, *pair) for number, pair in enumerate(drawn)]
