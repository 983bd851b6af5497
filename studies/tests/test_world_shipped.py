"""data/world as shipped: loads as any other model does, and does what its card says."""

import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open

from saesteer.core.files import text_id
from saesteer.engine.models import LanguageModel
from saesteer.engine.sae_convert import sae_from_folder
from saesteer.world import oracle_judge as runtime
from saesteer.world.lexicon import load_lexicon
from studies.world import corpus, measure
from studies.world import oracle as fitting
from studies.world.build import CARD, METRICS, ORACLE, REFERENCE, SAES, TEXTS, TOPICS
from studies.world.card import render_card
from studies.world.oracle import OracleSizes
from studies.world.tokenizer import CONTEXT, build_tokenizer
from studies.world.train_saes import residuals

ROOT = Path(__file__).resolve().parents[2]
WORLD = ROOT / "data/world"
LEXICON = load_lexicon(WORLD / "lexicon.yaml", ROOT / "config/prefixes.txt")
METRIC_FILE = json.loads((WORLD / METRICS).read_text(encoding="utf-8"))
SHIPPED = METRIC_FILE["seeds"][0]
FRESH = 10_000  # a seed of texts that no build uses


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return measure.load_model(WORLD / "model")


@pytest.fixture(scope="module")
def tokenizer(lm: LanguageModel):
    return lm.tokenizer


@pytest.fixture(scope="module")
def fresh_rows(tokenizer) -> np.ndarray:
    return corpus.padded_rows(tokenizer, corpus.fitted_corpus(LEXICON, FRESH, "held_out", 60).documents)


def test_card_is_in_step_with_the_metrics_of_three_seeds():
    topics = json.loads((WORLD / TOPICS).read_text(encoding="utf-8"))
    assert (WORLD / CARD).read_text(encoding="utf-8") == render_card(METRIC_FILE, topics), "run `make world-adopt` or render the card again"
    assert [metrics["seed"] for metrics in METRIC_FILE["seeds"]] == [0, 1, 2]
    assert len({json.dumps(metrics["recipe"], sort_keys=True) for metrics in METRIC_FILE["seeds"]}) == 1
    norms = [layer["residual_norm"] for layer in SHIPPED["layers"]]
    assert all(after > 1.2 * before for before, after in itertools.pairwise(norms))


def test_models_have_the_stated_shape_and_no_sampling_defaults(lm: LanguageModel):
    config = lm.model.config
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("gemma2", 8, 128)
    assert config.vocab_size == len(lm.tokenizer)
    assert sum(p.numel() for p in lm.model.parameters()) == SHIPPED["language"]["parameters"]
    generation = json.loads((WORLD / "model/generation_config.json").read_text(encoding="utf-8"))
    assert not {"do_sample", "temperature", "top_k", "top_p"} & set(generation)


def test_two_models_stored_in_half_precision_read_the_same_tokens_with_the_stated_losses(lm: LanguageModel, fresh_rows: np.ndarray):
    """On fresh texts; 60 documents scatter by about .02 nats."""
    for name in ("model", REFERENCE):
        with safe_open(WORLD / name / "model.safetensors", "pt") as weights:
            assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float16}  # noqa: SIM118 (no mapping)
    assert (WORLD / "model/tokenizer.json").read_bytes() == (WORLD / REFERENCE / "tokenizer.json").read_bytes()
    reference = measure.load_model(WORLD / REFERENCE)
    assert not torch.equal(reference.model.model.embed_tokens.weight, lm.model.model.embed_tokens.weight)
    assert measure.held_out_loss(lm, fresh_rows) == pytest.approx(SHIPPED["language"]["model_loss"], abs=0.08)
    assert measure.held_out_loss(reference, fresh_rows) == pytest.approx(SHIPPED["language"]["reference_loss"], abs=0.08)
    assert SHIPPED["language"]["model_loss"] < 2.0


@pytest.mark.parametrize("layer", [0, 7])
def test_saes_explain_what_the_card_says(layer: int, lm: LanguageModel, fresh_rows: np.ndarray):
    sae = sae_from_folder(WORLD / SAES / f"layer_{layer:02d}", "float32", "cpu")
    assert sae.W_enc.shape == (128, 1024)
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(1024), atol=1e-3, rtol=0)
    metrics = measure.sae_metrics(sae, residuals(lm, fresh_rows)[layer])
    assert metrics["explained_variance"] == pytest.approx(SHIPPED["layers"][layer]["explained_variance"], abs=0.02)
    assert metrics["l0"] == pytest.approx(SHIPPED["layers"][layer]["l0"], rel=0.1)


def test_texts_are_the_tokenizers_and_carry_labels(tokenizer):
    frame = pl.read_parquet(WORLD / TEXTS)
    assert dict(frame.schema) == corpus.TEXTS_SCHEMA
    assert frame["text"].n_unique() == frame.height == 2000
    assert frame["text_id"].to_list() == [text_id(text) for text in frame["text"]]
    assert frame["token_ids"].to_list() == tokenizer(frame["text"].to_list())["input_ids"]
    assert frame["token_topics"].list.len().equals(frame["token_ids"].list.len())
    assert frame["token_ids"].list.len().max() <= CONTEXT
    topics = set(frame["token_topics"].explode())
    assert topics == {*range(32), 255}


def test_labels_agree_with_the_oracle():
    """Content tokens of the labelled texts: the oracle, which never saw them, names their label's topic."""
    judge = runtime.load_oracle(WORLD / ORACLE)
    frame = pl.read_parquet(WORLD / TEXTS).head(200)
    ids, labels = np.concatenate(frame["token_ids"].to_list()), np.concatenate(frame["token_topics"].to_list())
    kept = runtime.content_tokens(judge, ids.tolist()) & (labels != 255)
    named = runtime.topic_posterior(judge, ids[kept].tolist()).argmax(1)
    assert (named == labels[kept]).mean() > 0.95
    assert len(set(labels[kept].tolist())) == 32


def test_oracle_accuracies_hold_on_a_fresh_split():
    judge = runtime.load_oracle(WORLD / ORACLE)
    rates = fitting.measure_oracle(judge, LEXICON, measure.load_model(WORLD / REFERENCE), FRESH, OracleSizes(0, 200, 60))
    for key, slack in (("sentence_accuracy", 0.02), ("concept_accuracy", 0.05), ("fluency_accuracy", 0.08)):
        assert rates[key] == pytest.approx(SHIPPED["oracle"][key], abs=slack), key


def test_tokenizer_and_judge_are_stored_as_they_ship(tmp_path: Path):
    build_tokenizer(LEXICON).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (WORLD / "model" / name).read_bytes()
    fitting.save_oracle(runtime.load_oracle(WORLD / ORACLE), {}, OracleSizes(), tmp_path)
    assert (tmp_path / runtime.WEIGHTS).read_bytes() == (WORLD / ORACLE / runtime.WEIGHTS).read_bytes()
    stored, shipped = (json.loads((folder / runtime.SETTINGS).read_text()) for folder in (tmp_path, WORLD / ORACLE))
    assert stored == shipped | {"measured": {}}
