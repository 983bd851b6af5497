"""Texts from elsewhere, and what they score under a comparison's protocol: tables, figures, and from what they were made.

They are AxBench's results, P1's published texts, or a table of one's own, all read into rows of the same columns (TEXTS). A rating that a
file lacks is null. AxBench's program (arXiv 2501.17148) writes 0 for an answer of its judge that it cannot read: in its files that is not
told apart from a rating of 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter, ValidationError

import saesteer
from saesteer.core.errors import SettingsError
from saesteer.core.files import file_digest, text_id, write_atomically, write_json
from saesteer.core.tables import write_summary
from saesteer.core.texts import RATING_COLUMNS, SINGLE_FEATURE
from saesteer.exchange.comparison import AXBENCH_COLUMNS, AXBENCH_METHODS
from saesteer.figures.definition import Options
from saesteer.figures.registry import FIGURES
from saesteer.figures.save import save_figure
from saesteer.figures.style import visible
from saesteer.methods.compare.summaries import imported_summaries, with_scores, without_imported_repeats
from saesteer.methods.compare.tables import METHOD_CURVES, METHOD_SUMMARIES
from saesteer.run import Run
from saesteer.settings import IntervalSettings, ProtocolSettings, canonical_factor
from saesteer.settings.registry import METHODS
from saesteer.sources.encoding import json_of, refuse_missing, table_of, text_of
from saesteer.sources.published import labelled_concepts
from saesteer.steps.generations import GENERATIONS

UNREADABLE_IS_0 = "AxBench's program writes 0 for an answer of its judge that it cannot read: such a rating counts as 0 here too"
_FIGURES = ("methods", "method_curves", "method_differences")

TEXT = ("layer", "method", "concept", "prompt", "factor", "sample")
"""The key of a text."""
TEXTS = {
    "layer": pl.UInt16,
    "method": pl.String,  # key in the registry of methods where it has one, else the file's name for it
    "concept": pl.String,
    "prompt": pl.String,
    "factor": pl.String,
    "sample": pl.UInt32,
    "number": pl.UInt32,  # of the prompt among its concept's, in the file's order
    "text": pl.String,  # null: the file says that there is none
    **dict.fromkeys(RATING_COLUMNS, pl.Float64),
    "perplexity": pl.Float64,
}

AXBENCH = "AxBench's results"
_AXBENCH_ROW = {"concept": "input_concept", "prompt": "original_prompt", "factor": "factor", "order": "input_id"}

_READ = {*TEXTS, "feature", *_AXBENCH_ROW.values()} - {"number"}

Rule = Callable[[pl.Expr], pl.Expr]
_WHOLE: tuple[str, Rule] = ("a whole number from 0 to 65535", lambda value: value.is_between(0, 65535) & (value == value.floor()))
_NUMBERS: dict[str, tuple[str, Rule]] = {
    **dict.fromkeys(("layer", "sample", "order"), _WHOLE),
    **dict.fromkeys(RATING_COLUMNS, ("a number from 0 to 2, or empty", lambda value: value.is_between(0, 2))),
    "perplexity": ("a number above 0, or empty", lambda value: value > 0),
}
"""Column of numbers -> what a value has to be. Ratings and perplexity may be missing."""
_MAY_BE_MISSING = (*RATING_COLUMNS, "perplexity")


@dataclass(frozen=True)
class ImportedTexts:
    rows: pl.DataFrame
    """The columns TEXTS, one row per text."""
    form: str
    """What the files are: a table, AXBENCH or P1's texts."""
    digests: dict[str, str]
    """Name of each file -> SHA-256 of its bytes."""
    columns: tuple[str, ...]
    """The columns that were read."""
    unread: tuple[str, ...]
    """Columns, or files of a folder, that were not."""
    notes: tuple[str, ...] = ()
    """What to know about the texts."""


def imported_texts(path: Path, layer: int) -> ImportedTexts:
    """The texts in a file, or in a folder of P1's files; `layer` is that of files that name none."""
    if path.is_dir():
        return _of_p1(path)
    table = table_of(path, lambda name: name in _READ or name.endswith(tuple(AXBENCH_COLUMNS.values())))
    if any(name.endswith(AXBENCH_COLUMNS["text"]) for name in table.columns):
        return _of_axbench(path, table, layer)
    return _of_table(path, table, layer)


def _of_table(path: Path, table: pl.DataFrame, layer: int) -> ImportedTexts:
    """A row a text; an empty text is one of no content."""
    steerer = "feature" if "feature" in table.columns and "method" not in table.columns else "method"
    refuse_missing(path, table, (steerer, "concept", "prompt", "factor", "text"))
    optional = [name for name in ("layer", "sample", *_MAY_BE_MISSING) if name in table.columns]
    names = {"method": steerer} | {name: name for name in ("concept", "prompt", "factor", "text", *optional)}
    given = table.select(pl.col(name).alias(column) for column, name in names.items()).with_row_index("row", offset=1)
    keys = {row.name: row.key for row in METHODS}
    typed = _typed(given.with_columns(order="row"), names, path).with_columns(pl.col("method").replace(keys), pl.col("text").fill_null(""))
    return _numbered_texts(typed, "table", [path], tuple(names.values()), table.columns, layer)


def _of_axbench(path: Path, table: pl.DataFrame, layer: int) -> ImportedTexts:
    """A row a concept, prompt and factor, columns for each method. A method's factors are those at which it has a text of any concept, or
    all where it has none; it abstains for a concept of which all its texts are null. A prompt that a concept has again is a further sample.
    """
    refuse_missing(path, table, tuple(_AXBENCH_ROW.values()))
    keys = {AXBENCH_METHODS.get(row.name, row.name): row.key for row in METHODS}
    frames, columns = [], list(_AXBENCH_ROW.values())
    for steerer in (name.removesuffix(AXBENCH_COLUMNS["text"]) for name in table.columns if name.endswith(AXBENCH_COLUMNS["text"])):
        of_method = {column: steerer + ending for column, ending in AXBENCH_COLUMNS.items() if steerer + ending in table.columns}
        names = _AXBENCH_ROW | of_method
        columns += of_method.values()
        given = table.select(pl.col(name).alias(column) for column, name in names.items()).with_row_index("row", offset=1)
        typed = _typed(given.with_columns(method=pl.lit(keys.get(steerer, steerer))), names, path)
        is_written = pl.col("text").is_not_null()
        frames.append(typed.filter(is_written.any().over("factor") | ~is_written.any()))
    typed = pl.concat(frames, how="diagonal")
    two = typed.filter(pl.col("prompt").n_unique().over("concept", "order") > 1)
    if two.height:
        raise SettingsError(f"{path}, row {two['row'][0]}: another row of its concept has the same input_id and another original_prompt")
    typed = typed.with_columns(sample=pl.col("order").rank("dense").over("concept", "prompt") - 1)
    return _numbered_texts(typed, AXBENCH, [path], tuple(columns), table.columns, layer)


def _numbered_texts(
    typed: pl.DataFrame, form: str, files: list[Path], read: tuple[str, ...], there: list[str], layer: int, notes: tuple[str, ...] = ()
) -> ImportedTexts:
    """Rows with a column `order`, by which a concept's prompts are numbered."""
    lacking = {"layer": layer, "sample": 0}
    added = [pl.lit(lacking.get(name), dtype).alias(name) for name, dtype in TEXTS.items() if name not in (*typed.columns, "number")]
    placed = typed.with_columns(*added, first=pl.col("order").min().over("concept", "prompt"))
    numbered = placed.with_columns(number=pl.col("first").rank("dense").over("concept") - 1)
    repeated = numbered.filter(pl.struct(TEXT).is_duplicated())
    if repeated.height:
        first, second = repeated.join(repeated.head(1), on=TEXT, how="semi")["row"][:2]
        raise SettingsError(
            f"{files[0]}: rows {first} and {second} have the same {', '.join(TEXT)}: leave one out, or number them in a column sample"
        )
    rows = numbered.select(pl.col(name).cast(dtype) for name, dtype in TEXTS.items())
    rows = rows.with_columns(pl.when(pl.col("text").is_not_null()).then(name).alias(name) for name in _MAY_BE_MISSING)
    if rows["text"].is_null().all():
        raise SettingsError(f"{files[0]} holds no texts")
    unread = tuple(name for name in there if name not in read)
    return ImportedTexts(rows, form, {file.name: file_digest(file) for file in files}, read, unread, notes)


def _typed(given: pl.DataFrame, names: Mapping[str, str], path: Path) -> pl.DataFrame:
    """The columns as those of TEXTS, and `order` as a number. `names` is column -> name in the file, `row` the number of the row there."""
    numbers = {column: pl.col(column).str.strip_chars() for column in names if column in _NUMBERS}
    values = {column: value.cast(pl.Float64, strict=False) for column, value in numbers.items()}
    for column, value in numbers.items():
        what, rule = _NUMBERS[column]
        missing = pl.col(column).is_null() | value.str.to_lowercase().is_in(["", "nan"])
        is_right = rule(values[column]).fill_null(False) & values[column].is_not_nan()
        wrong = ~is_right & ~missing if column in _MAY_BE_MISSING else ~is_right | missing
        _refuse(given, column, wrong.fill_null(True), f"has to be {what}", names, path)
    for column in ("method", "concept", "prompt"):
        empty = pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")
        _refuse(given, column, empty, "is empty", {"method": "method"} | dict(names), path)
    factors = {}
    for row, factor in given.unique("factor", keep="first", maintain_order=True).select("row", "factor").iter_rows():
        try:
            factors[factor] = canonical_factor(factor)
        except SettingsError as error:
            raise SettingsError(f"{path}, row {row}, column {names['factor']}: {error}") from error
    finite = (pl.when(value.is_finite()).then(value).alias(column) for column, value in values.items())
    return given.with_columns(*finite, factor=pl.col("factor").replace_strict(factors, return_dtype=pl.String))


def _refuse(frame: pl.DataFrame, column: str, wrong: pl.Expr, what: str, names: Mapping[str, str], path: Path) -> None:
    rows = frame.filter(wrong).select("row", column)
    if rows.height:
        row, value = rows.row(0)
        raise SettingsError(f"{path}, row {row}, column {names[column]}: it {what}; it is {value!r:.60}")


def _of_p1(folder: Path) -> ImportedTexts:
    """A folder with P1's published files (arXiv 2505.20063): the texts of each factor (..._0_4.json for 0.4), the instructions of each
    feature, and AxBench's lists of concepts (.jsonl), which say what the features stand for.

    A text there begins with its instruction, which is cut off; one that does not is taken whole, and counted in a note.
    """
    files = sorted(folder.glob("*.json"))
    factors = {match[1].replace("_", "."): file for file in files if (match := re.search(r"_([0-9]+_[0-9]+)\.json$", file.name))}
    listed, lists = [file for file in files if "instructions" in file.name], sorted(folder.glob("*.jsonl"))
    if not factors or len(listed) != 1 or not lists:
        raise SettingsError(
            f"{folder}: P1's texts are read from a folder with one file per factor (..._0_4.json), one of instructions"
            " (*instructions*.json) and AxBench's lists of concepts (.jsonl);"
            f" it has {len(factors)}, {len(listed)} and {len(lists)} of them"
        )
    instructions, concepts = _lists_of_texts(listed[0]), _concepts(lists)
    rows: list[dict[str, Any]] = []
    n_whole = 0
    for factor, file in factors.items():
        for key, texts in _lists_of_texts(file).items():
            prompts = instructions.get(key, [])
            if key not in concepts or len(prompts) != len(texts):
                lack = f"{listed[0].name} has {len(prompts)} instructions" if key in concepts else f"no list of concepts in {folder} has it"
                raise SettingsError(f"{file}, key {key}: {len(texts)} texts, but {lack}")
            n_whole += sum(not text.startswith(prompt) for text, prompt in zip(texts, prompts, strict=True))
            of_key = {"row": len(rows), "layer": int(key.partition("_")[0]), "concept": concepts[key], "factor": canonical_factor(factor)}
            rows += [
                of_key | {"prompt": prompt, "order": order, "sample": prompts[:order].count(prompt), "text": text.removeprefix(prompt)}
                for order, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
            ]
    typed, used = pl.DataFrame(rows).with_columns(method=pl.lit(SINGLE_FEATURE)), [*factors.values(), *listed, *lists]
    notes = (f"{n_whole} texts do not begin with their instruction: taken whole",) if n_whole else ()
    return _numbered_texts(typed, "P1's texts", used, tuple(file.name for file in used), [file.name for file in files], 0, notes)


def _lists_of_texts(file: Path) -> dict[str, list[str]]:
    """{"LAYER_FEATURE": [text, ...]}."""
    try:
        lists = TypeAdapter(dict[str, list[str]]).validate_python(json_of(text_of(file), str(file)), strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        raise SettingsError(f"{file}, {' '.join(map(str, fault['loc'])) or 'whole file'}: {fault['msg']}") from error
    if wrong := [key for key in lists if not re.fullmatch(r"[0-9]{1,4}_[0-9]+", key)]:
        raise SettingsError(f"{file}, key {wrong[0]!r}: keys have to be LAYER_FEATURE, as 20_37025")
    return lists


def _concepts(lists: list[Path]) -> dict[str, str]:
    """LAYER_FEATURE -> concept, by Neuronpedia's name of the SAE, which begins with the layer."""
    return {f"{entry.source.partition('-')[0]}_{entry.feature}": entry.concept for file in lists for entry in labelled_concepts(file)}


def import_texts(source: Path, layer: int, protocol: Run | None, judge: Run | None, folder: Path) -> Iterator[str]:
    """Write tables, figures and import.json to a folder; gives the lines to show.

    `layer` is that of texts that name none; `protocol` is the comparison whose protocol holds (None: the defaults), `judge` the one whose
    judge rates the texts (None: the ratings are the file's).
    """
    texts = imported_texts(source, layer)
    if judge is None and texts.form == AXBENCH:
        texts = replace(texts, notes=(*texts.notes, UNREADABLE_IS_0))
    settings: ProtocolSettings = protocol.comparison.methods if protocol else ProtocolSettings()
    as_rated = _rated(texts, judge, source)
    rated = without_imported_repeats(as_rated, settings)
    tables = imported_summaries(rated, settings)
    for name, table in tables.items():
        if name != "methods":
            write_summary(METHOD_SUMMARIES[name], table, folder / f"tables/{name}.parquet")
    write_atomically(folder / "tables/methods.parquet", tables["methods"].write_parquet)
    write_atomically(folder / "texts.parquet", rated.write_parquet)
    drawn = tables | {name: _with_plain_titles(tables[name]) for name in ("methods", METHOD_CURVES.name)}
    intervals = IntervalSettings(confidence=settings.confidence)
    options = Options("", intervals, in_sample=settings.factor_choice == "same_texts")
    for name in _FIGURES:
        data = FIGURES[name].data(drawn, options)
        save_figure(FIGURES[name].draw(data), data, folder / name)
    write_json(folder / "import.json", _provenance(texts, rated, judge, settings))
    yield from _lines(texts, tables["methods"])
    if n_repeated := (rated["judge_score"] != as_rated["judge_score"]).sum():
        yield f"{n_repeated} texts repeat those of other prompts, and score 0"
    yield f"wrote {folder}"


def _with_plain_titles(table: pl.DataFrame) -> pl.DataFrame:
    """Names from a file as they are: no line breaks, and no mathematics between dollar signs."""
    return table.with_columns(pl.col("title").map_elements(lambda title: visible(title).replace("$", r"\$"), pl.String))


def _rated(texts: ImportedTexts, judge: Run | None, source: Path) -> pl.DataFrame:
    """The texts with ratings, the file's or a judge's, and their score."""
    if judge is not None:
        return _by_judge(texts.rows, judge)
    if lacking := [name for name in ("concept_rating", "fluency_rating") if texts.rows[name].is_null().all()]:
        raise SettingsError(f"{source} has no {' and no '.join(lacking)}: name a comparison whose judge rates the texts (--judge)")
    return with_scores(texts.rows)


def _by_judge(texts: pl.DataFrame, run: Run) -> pl.DataFrame:
    """The texts with the ratings of a comparison's judge in place of the file's. Its answers and what they cost count as that
    experiment's."""
    from saesteer.steps.judge import ratings
    from saesteer.steps.judges import judge_of

    prompts = {text_id(prompt): prompt for prompt in texts["prompt"].unique()}
    if judge := judge_of(run.comparison):
        judge.check_texts_from_elsewhere(run, texts["concept"].unique().to_list())
    ids = {prompt: prefix_id for prefix_id, prompt in prompts.items()}
    named = texts.with_columns(target=pl.col("concept"), prefix_id=pl.col("prompt").replace_strict(ids))
    reason = pl.when(pl.col("text").is_null()).then(pl.lit("the file has no text"))
    losses = named.select(*GENERATIONS.keys, mean_nll=pl.col("perplexity").log())
    frames = ratings(run, named.select(*GENERATIONS.keys, "text", "concept", reason=reason), losses, prompts, None)
    rated = pl.concat(frames).select(*GENERATIONS.keys, *(pl.col(name).cast(pl.Float64) for name in RATING_COLUMNS), "judge_score")
    joined = named.drop(RATING_COLUMNS).join(rated, on=GENERATIONS.keys, how="left", maintain_order="left")
    return joined.select(*(name for name in texts.columns), "judge_score")


def _provenance(texts: ImportedTexts, rated: pl.DataFrame, judge: Run | None, settings: ProtocolSettings) -> dict[str, Any]:
    by_judge = judge.comparison.judge.model_dump(mode="json") | {"experiment": judge.name} if judge else "the file's ratings"
    return {
        "form": texts.form,
        "files": texts.digests,
        "read": texts.columns,
        "not_read": texts.unread,
        "notes": texts.notes,
        "imported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "saesteer": saesteer.__version__,
        "judge": by_judge,
        "protocol": settings.model_dump(mode="json", include={"score", "factor_choice", "bootstrap_draws", "confidence", "seed"})
        | {"factor_rule": "score"},
        "n_texts": rated["text"].count(),
        "n_unrated": rated.filter(pl.col("text").is_not_null())["judge_score"].null_count(),
    }


def _lines(texts: ImportedTexts, methods: pl.DataFrame) -> Iterator[str]:
    """What was read, and each method's score with its interval, the best first."""
    yield f"{texts.form}: {texts.rows['text'].count()} texts; not read: {', '.join(texts.unread) or 'nothing'}"
    yield from texts.notes
    for row in methods.sort("layer", "score", descending=[False, True], nulls_last=True).iter_rows(named=True):
        ends = "" if row["score_low"] is None else f" [{row['score_low']:.3f}, {row['score_high']:.3f}]"
        score = "no score" if row["score"] is None else f"{row['score']:.3f}{ends}"
        missing = f", {row['n_missing']} of {row['n_texts']} texts unrated" if row["n_missing"] else ""
        abstains = f", abstains for {row['n_abstaining']}" if row["n_abstaining"] else ""
        yield f"  layer {row['layer']}, {row['title']}: {score}, {row['n']} of {row['n_concepts']} concepts{abstains}{missing}"
