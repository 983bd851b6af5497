"""Files that papers published: where each is, and how what it holds is read. The project ships none of them (sources.download fetches).

published.csv has the key of each, its repository, a commit and a path there. What is read out of a file is plain data: a program's literal
lists are read from its syntax tree, and nothing is ever imported or run.
"""

import ast
import csv
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import polars as pl
from annotated_types import MinLen
from pydantic import BaseModel, Strict, ValidationError

from saesteer.core.files import zip_fault
from saesteer.settings import SettingsError


@dataclass(frozen=True)
class Published:
    """A file in a public repository at a commit."""

    repo: str
    commit: str
    path: str
    sha256: str | None
    """Digest of its bytes. None: it could not be taken when this table was written, and the user states it (`published_digests`)."""

    @property
    def identity(self) -> str:
        """What results that use it depend on."""
        return self.sha256 or f"{self.repo}@{self.commit}/{self.path}"


with Path(__file__).with_name("published.csv").open(newline="", encoding="utf-8") as _file:
    PUBLISHED = {row["key"]: Published(row["repo"], row["commit"], row["path"], row["sha256"] or None) for row in csv.DictReader(_file)}
"""Key -> file. P1: arXiv 2505.20063; axbench: arXiv 2501.17148; webtext: the corpus of P1's PMI figure."""


def published_file(key: str) -> Published:
    """The file of a key; an unknown key is refused with the known ones."""
    if key not in PUBLISHED:
        raise SettingsError(f"there is no published file {key!r}; known: {', '.join(PUBLISHED)}")
    return PUBLISHED[key]


def cached_path(key: str, downloads: Path) -> Path:
    """Where the file of a key is kept."""
    return downloads / "published" / f"{key}{PurePosixPath(published_file(key).path).suffix}"


def feature_list(path: Path) -> dict[int, tuple[int, ...]]:
    """A feature set in P1's form, layer -> features, ascending: {"0": [17, 5], ...}."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {int(layer): tuple(sorted(int(feature) for feature in features)) for layer, features in values.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path} is no feature list of the form {{layer: [feature, ...]}}: {error}") from error


def literal_strings(path: Path, name: str) -> list[str]:
    """The list of strings that a program assigns to `name`, read from its syntax tree."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets) and isinstance(node, ast.Assign):
            values = ast.literal_eval(node.value)
            if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
                return values
    raise SettingsError(f"{path} assigns no list of strings to {name!r}")


def instructions(path: Path) -> list[str]:
    """The instructions of a file in AlpacaEval's form: a JSON list of objects with a key `instruction`; each once, one line each."""
    items = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(items, list) or not all(isinstance(item, dict) and "instruction" in item for item in items):
        raise SettingsError(
            f"{path} is no JSON list of objects with a key `instruction`; a file with a prompt a line ends otherwise, as .txt"
        )
    return list(dict.fromkeys(" ".join(str(item["instruction"]).split()) for item in items))


def zipped_lines(path: Path) -> pl.DataFrame:
    """The distinct lines with letters in them of the text files of a zip archive, one text each -> column text."""
    if fault := zip_fault(path):
        raise SettingsError(f"{path}: {fault}")
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".txt"))
        text = "\n".join(archive.read(name).decode("utf-8", errors="replace") for name in names)
    lines = [line.strip() for line in text.splitlines()]
    return pl.DataFrame({"text": list(dict.fromkeys(line for line in lines if any(map(str.isalpha, line))))})


@dataclass(frozen=True)
class LabelledConcept:
    """A line of AxBench's list of concepts (arXiv 2501.17148, section 4): a text, and the SAE feature that Neuronpedia explains by it."""

    number: int
    """The concept's concept_id in the files."""
    concept: str
    genre: str
    """Which of the shared negative texts are its own: text, code or math."""
    source: str
    """Neuronpedia's name of the SAE, e.g. 20-gemmascope-res-131k."""
    feature: int
    line: int
    """Where it stands in its file, from 1."""


LABELLED_TEXTS = {
    "input": pl.String,
    "output": pl.String,
    "output_concept": pl.String,
    "concept_genre": pl.String,
    "category": pl.String,
    "concept_id": pl.Int64,
}
"""The columns of AxBench's training texts that are read; concept_id is -1 for negative texts, which concepts of a genre share."""


def labelled_concepts(path: Path) -> list[LabelledConcept]:
    """The concepts of a metadata.jsonl, one JSON object a line, in the file's order."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no text in UTF-8, so no list of concepts: {error}") from error
    concepts = [_labelled_concept(path, place, line) for place, line in enumerate(lines, start=1) if line.strip()]
    for key in ("number", "concept"):
        first: dict[int | str, int] = {}
        for concept in concepts:
            value = getattr(concept, key)
            if first.setdefault(value, concept.line) != concept.line:
                raise SettingsError(f"{path}: lines {first[value]} and {concept.line} have the same {key}, {value!r}; remove one")
    if not concepts:
        raise SettingsError(f"{path} holds no concepts: it needs one JSON object a line")
    return concepts


class _ConceptLine(BaseModel):
    """What is read of a line."""

    concept_id: Annotated[int, Strict()]
    concept: Annotated[str, MinLen(1)]
    ref: str
    concept_genres_map: dict[str, Annotated[list[str], MinLen(1)]]


def _labelled_concept(path: Path, line: int, text: str) -> LabelledConcept:
    where = f"{path}, line {line}"
    try:
        item = _ConceptLine.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        key = f"key {'.'.join(map(str, fault['loc']))}: " if fault["loc"] else ""
        value = "" if fault["type"] in ("missing", "json_invalid") else f", not {fault['input']!r:.60}"
        raise SettingsError(f"{where}: {key}{fault['msg']}{value}") from error
    if item.concept not in item.concept_genres_map:
        raise SettingsError(f"{where}: concept_genres_map names no genre for {item.concept!r}; it needs {{concept: [genre]}}")
    address = re.fullmatch(r".*?([^/]+)/([0-9]+)/?", item.ref, re.DOTALL)
    if not address:
        raise SettingsError(f"{where}: ref is {item.ref!r}, but has to end with a source and a feature's number")
    return LabelledConcept(item.concept_id, item.concept, item.concept_genres_map[item.concept][0], address[1], int(address[2]), line)


def labelled_texts(path: Path) -> pl.DataFrame:
    """The rows of a train_data.parquet: LABELLED_TEXTS, and `row`, their place in the file from 0."""
    try:
        texts = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise SettingsError(f"{path} cannot be read as Parquet: {error}") from error
    if absent := [name for name in LABELLED_TEXTS if name not in texts.columns]:
        raise SettingsError(f"{path}: no column {', '.join(absent)}; it has {', '.join(texts.columns)}")
    for name, dtype in LABELLED_TEXTS.items():
        actual = texts.schema[name]
        if actual != dtype and not (dtype == pl.Int64 and actual.is_integer()):
            raise SettingsError(f"{path}: column {name} has type {actual}, but has to be {dtype}")
    texts = texts.select(pl.col(name).cast(dtype) for name, dtype in LABELLED_TEXTS.items()).with_row_index("row")
    bad = {
        **{f"{name} is null": pl.col(name).is_null() for name in LABELLED_TEXTS},
        "output is blank": pl.col("output").str.strip_chars() == "",
        "category is neither positive nor negative": ~pl.col("category").is_in(["positive", "negative"]),
    }
    for what, rule in bad.items():
        rows = texts.filter(rule)["row"]
        if len(rows):
            raise SettingsError(f"{path}, row {rows[0]} (counted from 0): {what}")
    return texts
