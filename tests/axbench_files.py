"""Small files in the form of AxBench's lists of concepts (metadata.jsonl) and labelled texts (train_data.parquet)."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

CONCEPTS = [("words about boats", "text", 17), ("loops in programs", "code", 5), ("names of rivers", "text", 31)]
"""Concept, genre, and the feature that it labels."""


def metadata(source: str = "gemma-2-2b/10-gemmascope-res-16k") -> list[dict[str, Any]]:
    """The list of concepts, which label features of a source on Neuronpedia."""
    return [
        {
            "concept_id": number,
            "concept": concept,
            "ref": f"https://www.neuronpedia.org/{source}/{feature}",
            "concept_genres_map": {concept: [genre]},
        }
        for number, (concept, genre, feature) in enumerate(CONCEPTS)
    ]


def lines_of(values: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(value) + "\n" for value in values)


def train_rows(n_own: int, n_shared: int) -> list[dict[str, Any]]:
    """The shared negative texts of each genre, then each concept's own texts."""
    shared = [
        {"input": f"Ask {genre} {i}?", "output": f"No {genre} {i}.", "output_concept": "EEEEE", "concept_genre": genre, "concept_id": -1}
        for genre in ("text", "code", "math")
        for i in range(n_shared)
    ]
    own = [
        {"input": f"Ask {i}?", "output": f"On {concept} {i}.", "output_concept": concept, "concept_genre": genre, "concept_id": number}
        for number, (concept, genre, _) in enumerate(CONCEPTS)
        for i in range(n_own)
    ]
    kinds = [{"category": "negative"}] * len(shared) + [{"category": "positive"}] * len(own)
    return [{**row, **kind, "dataset_category": "instruction"} for row, kind in zip(shared + own, kinds, strict=True)]
