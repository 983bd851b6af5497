"""data/world-books as shipped: complete and small, in step with its card, and with texts that are labelled and read as they say."""

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

from saesteer.analysis.concepts import NO_TOPIC
from saesteer.world.books import judge
from studies.books import build, texts
from studies.books.card import render_card
from studies.world import corpus, measure
from studies.world.build import CARD, METRICS, MODEL, REFERENCE, SAES, TEXTS, TOPICS
from studies.world.train_saes import residuals

ROOT = Path(__file__).resolve().parents[2]
WORLD = ROOT / "data/world-books"
MEASURED = json.loads((WORLD / METRICS).read_text(encoding="utf-8"))
NAMES = json.loads((WORLD / TOPICS).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written() -> pl.DataFrame:
    return pl.read_parquet(WORLD / TEXTS)


def test_the_folder_is_small_and_complete():
    files = [path for path in WORLD.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 45_000_000
    assert not [path for path in files if path.suffix not in (".json", ".safetensors", ".parquet", ".md", ".csv", ".txt")]
    with (WORLD / build.BOOKS).open(encoding="utf-8", newline="") as source:
        books = list(csv.DictReader(source))
    assert {book["topic"] for book in books} == set(NAMES)
    assert all(book["repository"] and book["commit"] and "Public domain" in book["rights"] for book in books)


def test_the_card_is_in_step_with_the_metrics():
    splits = pl.read_csv(WORLD / build.BOOKS)["split"].value_counts()
    assert (WORLD / CARD).read_text(encoding="utf-8") == render_card(MEASURED, dict(splits.iter_rows())), "run `make books-adopt`"


def test_two_models_of_the_stated_size_read_the_same_tokens():
    models = [measure.load_model(WORLD / name) for name in (MODEL, REFERENCE)]
    for name, model in zip((MODEL, REFERENCE), models, strict=True):
        assert sum(parameter.numel() for parameter in model.parameters()) == MEASURED["language"]["parameters"]
        with safe_open(WORLD / name / "model.safetensors", "pt") as weights:
            assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float16}  # noqa: SIM118 (no mapping)
    assert (WORLD / MODEL / "tokenizer.json").read_bytes() == (WORLD / REFERENCE / "tokenizer.json").read_bytes()
    assert not torch.equal(models[0].model.embed_tokens.weight, models[1].model.embed_tokens.weight)
    assert MEASURED["language"]["valid_loss"] < 4.2


@pytest.mark.parametrize("layer", [0, 5])
def test_saes_explain_the_models_own_texts_about_as_well_as_the_valid_books(layer: int, written: pl.DataFrame):
    rows = np.zeros((40, MEASURED["recipe"]["model"]["context"]), dtype=np.uint16)
    for row, ids in zip(rows, written["token_ids"], strict=False):
        row[: len(ids)] = ids[: len(row)]
    sae = measure.load_sae(WORLD / SAES / f"layer_{layer:02d}")
    torch.testing.assert_close(sae["W_dec"].norm(dim=-1), torch.ones(len(sae["W_dec"])), atol=1e-3, rtol=0)
    measured = measure.sae_metrics(sae, residuals(measure.load_model(WORLD / MODEL), rows)[layer])
    assert measured["explained_variance"] == pytest.approx(MEASURED["layers"][layer]["explained_variance"], abs=0.06)
    assert measured["l0"] == pytest.approx(MEASURED["layers"][layer]["l0"], rel=0.25)


def test_texts_are_labelled_as_the_judge_says_and_read_as_they_are_stored(written: pl.DataFrame):
    assert dict(written.schema) == corpus.TEXTS_SCHEMA
    assert written["text"].is_unique().all()
    rater, tokenizer = judge.load_text_judge(WORLD / build.JUDGE), AutoTokenizer.from_pretrained(WORLD / MODEL)
    for text, ids, labels in written.head(200).select("text", "token_ids", "token_topics").iter_rows():
        topic, sure = texts.likeliest(rater, text)
        assert tokenizer(text)["input_ids"] == ids
        assert set(labels[1:]) == {topic if sure > texts.SURE else NO_TOPIC}
    assert sum(texts.shares_of_topics(written, NAMES).values()) == written.height == MEASURED["texts"]["kept"]


def test_there_are_labelled_sentences_of_every_topic_that_begin_with_no_prompt():
    frame = pl.read_parquet(WORLD / build.CONCEPT_TEXTS)
    assert set(frame["concept"]) == set(NAMES)
    assert frame.group_by("concept").len()["len"].min() >= 72  # AxBench's number of texts a concept
    prompts = (ROOT / "config/prefixes.txt").read_text(encoding="utf-8").splitlines()[:20]
    assert not set(frame["opener"]) & set(prompts)


def test_the_judge_says_how_often_it_errs():
    measured = MEASURED["judge"]["measured"]
    rates = [np.trace(table) / np.sum(table) for table in (measured["concept_ratings"], measured["fluency_ratings"])]
    assert min(rates) > 0.55  # of three ratings
    assert measured["topic_accuracy"] > 0.6
