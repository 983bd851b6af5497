"""Train the world of the books from their paragraphs. Every phase is left out where its files are there, and a killed training goes on
from its last checkpoint, so `make books` again continues.

One folder: tokenizer/, model/, reference_model/, saes/layer_NN/, judge/, texts.parquet, concept_texts.parquet, book_texts.parquet (not
shipped), topics.json, metrics.json.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import UInt16
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from saesteer.core.files import write_json
from saesteer.world.books.judge import load_text_judge
from saesteer.world.streams import stream_seed
from studies.books import fit_judge, texts
from studies.books.card import render_card
from studies.books.paragraphs import book_sentences, packed_rows, read_paragraphs
from studies.books.texts import SampleRecipe
from studies.books.tokenizer import learn_tokenizer
from studies.books.train import Speed, plain_model, train_resumably
from studies.world import measure, train_saes
from studies.world.build import CARD, METRICS, MODEL, REFERENCE, SAES, TEXTS, TOPICS
from studies.world.corpus import is_content
from studies.world.train_model import ModelRecipe, save_model
from studies.world.train_saes import SaeRecipe

logger = logging.getLogger(__name__)

MODEL_NAME = "saesteer-books"
TOKENIZER, JUDGE, PHASES = "tokenizer", "judge", "phases"
CONCEPT_TEXTS, BOOK_TEXTS, COUNTS, BOOKS = "concept_texts.parquet", "book_texts.parquet", "texts.json", "books.csv"


@dataclass(frozen=True)
class BooksRecipe:
    """Every size of the world; the defaults are the shipped one's."""

    model: ModelRecipe = field(default_factory=plain_model)
    sae: SaeRecipe = field(default_factory=lambda: SaeRecipe(d_sae=2048, k=25, steps=2000, learning_rate=1e-3))
    samples: SampleRecipe = field(default_factory=SampleRecipe)
    sentences: SampleRecipe = field(default_factory=lambda: SampleRecipe(texts=400, tokens=48))
    sentences_a_topic: int = 80
    vocabulary: int = 4096
    sae_rows: int = 5000
    measured_rows: int = 500  # of the valid books, on which models and SAEs are measured
    runs: int = 4800
    speed: Speed = field(default_factory=Speed)


@dataclass(frozen=True)
class BooksBuild:
    """What every phase of a build needs: where, from which paragraphs, with which seed and sizes."""

    folder: Path
    paragraphs: Path
    openers: tuple[str, ...]
    seed: int
    recipe: BooksRecipe

    @cached_property
    def frame(self) -> pl.DataFrame:
        """All paragraphs."""
        return read_paragraphs(self.paragraphs)

    @cached_property
    def topics(self) -> list[str]:
        """The topics' names in index order."""
        return sorted(set(self.frame["topic"]))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer as stored."""
        return AutoTokenizer.from_pretrained(self.folder / TOKENIZER, trust_remote_code=False)

    def rows(self, split: str) -> UInt16[np.ndarray, "row context"]:
        """A split's rows of tokens, made once."""
        path = self.folder / PHASES / f"{split}.npy"
        if not path.exists():
            packed = packed_rows(self.tokenizer, book_sentences(self.frame.filter(split=split)), self.recipe.model.context)
            partial = path.with_suffix(".partial.npy")
            np.save(partial, packed)
            partial.rename(path)
        return np.load(path)


def build_books(build: BooksBuild) -> dict[str, Any]:
    """Every phase that is not done; returns the metrics that it also writes."""
    (build.folder / PHASES).mkdir(parents=True, exist_ok=True)
    phases: dict[str, Callable[[BooksBuild], None]] = {
        "tokenizer": learn,
        "models": train_both_models,
        "saes": train_all_saes,
        "judge": make_judge,
        "texts": write_texts,
        "concept_texts": write_concept_texts,
        "book_texts": write_book_texts,
        "metrics": write_metrics,
    }
    for name, phase in phases.items():
        done = build.folder / PHASES / f"{name}.json"
        if not done.exists():
            start = time.monotonic()
            phase(build)
            write_json(done, {"seconds": round(time.monotonic() - start, 1)})
            logger.info("%s: %.0f s", name, time.monotonic() - start)
    metrics: dict[str, Any] = json.loads((build.folder / METRICS).read_text(encoding="utf-8"))
    return metrics


def learn(build: BooksBuild) -> None:
    """The tokenizer, from every third sentence of the train books."""
    sentences = [sentence for book in book_sentences(build.frame.filter(split="train")) for sentence in book]
    tokenizer = learn_tokenizer(sentences[::3], build.recipe.model.context, build.recipe.vocabulary)
    tokenizer.save_pretrained(build.folder / TOKENIZER)
    (build.folder / TOPICS).write_text(json.dumps(build.topics, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def train_both_models(build: BooksBuild) -> None:
    """The model and the reference model, side by side, one thread each."""
    for split in ("train", "valid"):
        build.rows(split)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(train_one_model, build, name) for name in (MODEL, REFERENCE)]:
            done.result()


def train_one_model(build: BooksBuild, name: str) -> None:
    """Train and store the model `name`; both see the same rows, each in its own order and from its own initial weights."""
    if (build.folder / name / "config.json").exists():
        return
    torch.set_num_threads(1)
    checkpoint = build.folder / PHASES / f"{name}.pt"
    recipe = build.recipe
    model, _ = train_resumably(build.rows("train"), len(build.tokenizer), recipe.model, build.seed, name, checkpoint, recipe.speed)
    partial = build.folder / f"{name}.partial"
    save_model(model, build.tokenizer, partial)
    partial.rename(build.folder / name)


def train_all_saes(build: BooksBuild) -> None:
    """Train and store an SAE for each layer of the stored model, on rows of the train books; layers that are there are left out."""
    rows = drawn_rows(build, build.rows("train"), build.recipe.sae_rows, "saes/rows")
    for layer, x in enumerate(train_saes.residuals(measure.load_model(build.folder / MODEL), rows)):
        folder = build.folder / SAES / f"layer_{layer:02d}"
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.partial")
            weights = train_saes.train_sae(x, build.recipe.sae, build.seed, layer)
            train_saes.save_sae(weights, partial, layer, MODEL_NAME, build.recipe.model.context)
            partial.rename(folder)


def drawn_rows(build: BooksBuild, rows: UInt16[np.ndarray, "row context"], n: int, label: str) -> UInt16[np.ndarray, "drawn context"]:
    """`n` of the rows at random, without one twice; all where there are no more."""
    return rows[np.random.default_rng(stream_seed(build.seed, label)).permutation(len(rows))[:n]]


def make_judge(build: BooksBuild) -> None:
    """Fit the judge on train and valid books, measure it on judge books."""
    splits = {name: build.frame.filter(split=name) for name in ("train", "valid", "judge")}
    train, numbers = splits["train"]["text"].to_list(), [build.topics.index(topic) for topic in splits["train"]["topic"]]
    words = fit_judge.known_words(train)
    likelihood = fit_judge.fit_classifier(train, numbers, len(build.topics), words)
    reference = measure.load_model(build.folder / REFERENCE)
    drawn = {
        name: fit_judge.runs(build.tokenizer, splits[name], build.topics, build.recipe.runs, build.seed, f"books/runs/{name}")
        for name in ("valid", "judge")
    }
    judge = fit_judge.fit_judge(words, likelihood, drawn["valid"], reference, build.tokenizer, build.seed)
    measured = fit_judge.measure_judge(judge, drawn["judge"], reference, build.tokenizer, build.topics, build.seed)
    fit_judge.save_text_judge(judge, measured, build.folder / JUDGE)


def write_texts(build: BooksBuild) -> None:
    """The model's own texts, labelled by the judge, without near copies of the books."""
    model, judge, recipe = measure.load_model(build.folder / MODEL), load_text_judge(build.folder / JUDGE), build.recipe.samples
    starts = texts.topical_starts(judge, build.tokenizer, recipe.texts)
    ids = texts.sampled_texts(model, starts, recipe, build.seed, "texts")
    frame = texts.labelled_texts(ids, build.tokenizer, judge)
    books = build.frame.filter(split="train")["text"]
    copied = pl.Series("copied", texts.copied_shares(frame["text"].to_list(), books))
    shipped = frame.filter(copied <= texts.MOST_COPIED)
    shipped.write_parquet(build.folder / TEXTS, compression="zstd", compression_level=19)
    counts = {"sampled": recipe.texts, "as_read": frame.height, "kept": shipped.height, "copied_share": copied.mean()}
    write_json(build.folder / COUNTS, {**counts, "topics": texts.shares_of_topics(shipped, build.topics)})


def write_concept_texts(build: BooksBuild) -> None:
    """Labelled sentences of every topic, which go on from the openers."""
    model, judge, recipe = measure.load_model(build.folder / MODEL), load_text_judge(build.folder / JUDGE), build.recipe.sentences
    drawn: list[tuple[str, str, int, float]] = []
    for opener in build.openers:
        start = build.tokenizer(opener, add_special_tokens=False)["input_ids"]
        ids = texts.sampled_texts(model, [start] * recipe.texts, recipe, build.seed, f"sentences/{opener}")
        written = (build.tokenizer.decode(text, skip_special_tokens=True) for text in ids)
        drawn += texts.first_sentences(written, opener, judge)
    texts.best_by_topic(drawn, build.topics, build.recipe.sentences_a_topic).write_parquet(build.folder / CONCEPT_TEXTS)


def write_book_texts(build: BooksBuild) -> None:
    """Paragraphs of the books in the form of the model's own texts, to compare max-activating examples with; they are not shipped."""
    recipe, train = build.recipe.samples, build.frame.filter(split="train")
    frame = texts.book_texts(train, build.topics, build.tokenizer, recipe.texts, recipe.tokens, build.seed)
    frame.write_parquet(build.folder / BOOK_TEXTS)


def write_metrics(build: BooksBuild) -> None:
    """Losses, what the SAEs keep, the judge's accuracies and unchosen samples."""
    folder, recipe, train = build.folder, build.recipe.model, build.rows("train")
    valid = drawn_rows(build, build.rows("valid"), build.recipe.measured_rows, "measured/rows")
    model, reference = (measure.load_model(folder / name) for name in (MODEL, REFERENCE))
    valid_loss = measure.held_out_loss(model, valid)
    language = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(build.tokenizer),
        "tokens": int(is_content(train).sum()),
        "tokens_seen": recipe.steps * recipe.batch * (recipe.context - 1),
        "valid_tokens": int(is_content(valid).sum()),
        "valid_loss": valid_loss,
        "reference_valid_loss": measure.held_out_loss(reference, valid),
    }
    metrics = {
        "seed": build.seed,
        "recipe": asdict(build.recipe),
        "language": language,
        "layers": measure.measures_of_saes(model, folder / SAES, valid, valid_loss),
        "judge": json.loads((folder / JUDGE / "text_judge.json").read_text(encoding="utf-8")),
        "texts": json.loads((folder / COUNTS).read_text(encoding="utf-8")),
        "seconds": {path.stem: json.loads(path.read_text())["seconds"] for path in sorted((folder / PHASES).glob("*.json"))},
        "samples": measure.samples(model, build.tokenizer, build.seed),
    }
    write_json(folder / METRICS, metrics)


def adopt(built: Path, provenance: Path, shipped: Path) -> None:
    """Copy a finished build over the shipped world, with the table of its books, and write the card."""
    if not (built / METRICS).exists():
        raise FileNotFoundError(f"{built} is not finished: run `make books` to its end first")
    shutil.rmtree(shipped, ignore_errors=True)
    shipped.mkdir(parents=True)
    for name in (MODEL, REFERENCE, SAES, JUDGE):
        shutil.copytree(built / name, shipped / name)
    for name in (TEXTS, CONCEPT_TEXTS, TOPICS, METRICS):
        shutil.copyfile(built / name, shipped / name)
    shutil.copyfile(provenance, shipped / BOOKS)
    splits = pl.read_csv(provenance)["split"].value_counts()
    metrics = json.loads((shipped / METRICS).read_text(encoding="utf-8"))
    (shipped / CARD).write_text(render_card(metrics, dict(splits.iter_rows())), encoding="utf-8")
