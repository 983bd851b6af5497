"""Texts of the user: the corpus whose activations give local max-activating examples, and whose co-occurrences give PMI."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from saesteer.core.files import text_id
from saesteer.core.tokens import TextTokens, load_tokens
from saesteer.settings import SettingsError
from saesteer.sources.encoding import json_of, text_of
from saesteer.sources.published import zipped_lines

ALGORITHM_VERSION = 1


def text_ids(path: Path) -> list[str]:
    """The text_id of each text of a Parquet file: a digest of the text where the file is yet to be tokenised."""
    if {"text_id", "token_ids"} <= text_columns(path):
        return _with_tokens(path)["text_id"].to_list()
    return list(dict.fromkeys(map(text_id, pl.read_parquet(path, columns=["text"])["text"].to_list())))


def _with_tokens(path: Path) -> pl.DataFrame:
    """text_id and token_ids of a Parquet file that has both. A text_id is the file's followed by a digest of the tokens: what is measured
    of a text is stored under its text_id, and another file may have the same ones with other tokens."""
    rows = _ids_and_tokens(path)
    ids = [f"{name}-{text_id(str(tokens))}" for name, tokens in rows.iter_rows()]
    return rows.with_columns(text_id=pl.Series(ids, dtype=pl.String))


def _ids_and_tokens(path: Path) -> pl.DataFrame:
    """text_id, as text, whether the file has texts, categories or whole numbers there, and token_ids."""
    return pl.read_parquet(path, columns=["text_id", "token_ids"]).with_columns(pl.col("text_id").cast(pl.String))


def read_texts(path: Path, model: Path, bos: str, max_tokens: int | None = None) -> pl.DataFrame:
    """Texts with text_id and token_ids (beginning-of-sequence token first where there is one).

    A file without token_ids is tokenised with the tokenizer of the model folder, `bos` as in the model's settings, and
    texts are cut after `max_tokens`.
    """
    if {"text_id", "token_ids"} <= text_columns(path):
        return _with_tokens(path)
    texts = pl.read_parquet(path, columns=["text"])["text"].to_list()
    return tokenised(texts, load_tokens(model), bos, max_tokens)


def pmi_texts(path: Path, model: Path) -> pl.DataFrame:
    """The texts whose co-occurrences are counted, with token_ids: a Parquet file, or a published zip of text files."""
    if path.suffix != ".zip":
        return read_texts(path, model, "tokenizer")
    return tokenised(zipped_lines(path)["text"].to_list(), load_tokens(model), "tokenizer", None)


def tokenised(texts: Sequence[str], tokens: TextTokens, bos: str, max_tokens: int | None) -> pl.DataFrame:
    """The distinct texts with text_id and token_ids."""
    distinct = list(dict.fromkeys(texts))
    ids = tokens.token_ids(distinct, bos, max_tokens)
    return pl.DataFrame({"text_id": [text_id(text) for text in distinct], "token_ids": pl.Series(ids, dtype=pl.List(pl.UInt32))})


def check_texts(path: Path) -> int:
    """Refuse a Parquet file of texts with a row that holds none, or in which all are equal; gives the number of distinct texts. Reads it
    whole."""
    if {"text_id", "token_ids"} <= text_columns(path):
        rows, column = _ids_and_tokens(path), "token_ids"
        _check_token_ids(path, rows)
        texts, lengths = rows[column], rows[column].list.len()
    else:
        texts, column = pl.read_parquet(path, columns=["text"])["text"], "text"
        if texts.dtype != pl.String:
            raise SettingsError(f"{path}: the column text holds {texts.dtype}, not texts")
        lengths = texts.str.strip_chars().str.len_bytes()
    if len(empty := (lengths.fill_null(0) == 0).arg_true()):
        raise SettingsError(f"{path}, row {empty[0]} (counted from 0): {column} is empty: fill it in, or leave the row out")
    n_distinct = texts.n_unique()
    if n_distinct < 2:
        raise SettingsError(f"{path} holds {n_distinct} text: max-activating examples and co-occurrences are found among many")
    return n_distinct


def _check_token_ids(path: Path, rows: pl.DataFrame) -> None:
    """Refuse numbers that are no token ids, and text_ids that do not name one text each. rows: text_id, token_ids."""
    if len(bad := rows["token_ids"].list.eval((pl.element() < 0) | pl.element().is_null()).list.any().fill_null(False).arg_true()):
        raise SettingsError(f"{path}, row {bad[0]} (counted from 0): token_ids has an empty or a negative number")
    ids = rows["text_id"]
    if len(bad := (ids.is_null() | ids.is_duplicated()).arg_true()):
        raise SettingsError(f"{path}, row {bad[0]} (counted from 0): text_id is missing, or another row has it too")


def topic_names(path: Path) -> list[str]:
    """The topics of labelled texts, by number."""
    names = json_of(text_of(path), str(path))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingsError(f"{path} is no JSON list of names")
    return names


def text_columns(path: Path) -> set[str]:
    """The columns of a Parquet file of texts; refused when it is none, or has neither texts nor tokens."""
    try:
        schema = pl.read_parquet_schema(path)
    except pl.exceptions.PolarsError as error:
        raise SettingsError(f"{path} is not readable as Parquet ({error}): texts come as a Parquet file with a column text") from error
    if "text" not in schema and not {"text_id", "token_ids"} <= set(schema):
        raise SettingsError(f"{path} has neither a column text nor the columns text_id and token_ids; it has {', '.join(sorted(schema))}")
    ids = schema.get("token_ids", pl.List(pl.UInt32))
    if not (isinstance(ids, pl.List) and ids.inner.is_integer()):
        raise SettingsError(f"{path}: the column token_ids holds {ids}, not lists of integers")
    names = schema.get("text_id", pl.String())
    if "token_ids" in schema and not (names in (pl.String, pl.Categorical, pl.Enum) or names.is_integer()):
        raise SettingsError(f"{path}: the column text_id holds {names}, not texts or whole numbers: save it as one of these")
    return set(schema)
