"""The training code at tiny sizes: the loss falls, runs repeat, weights keep their meaning in the stored form."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from saesteer.engine.models import LanguageModel, language_model
from saesteer.engine.saes import Sae, SaeMeta, decode, encode
from saesteer.world.lexicon import load_lexicon
from studies.world import build, card, corpus, measure, train_model, train_saes
from studies.world.oracle import OracleSizes
from studies.world.tokenizer import BOS_ID, EOS_ID, PAD_ID, build_tokenizer
from studies.world.train_model import ModelRecipe
from studies.world.train_saes import SaeRecipe

ROOT = Path(__file__).resolve().parents[2]
LEXICON_PATH, PREFIXES_PATH = ROOT / "data/world/lexicon.yaml", ROOT / "config/prefixes.txt"
TOKENIZER = build_tokenizer(load_lexicon(LEXICON_PATH, PREFIXES_PATH))
TINY_MODEL = ModelRecipe(n_layers=3, d_model=32, d_mlp=64, n_heads=2, n_kv_heads=1, head_dim=16, steps=12, batch=8, warm_up=3)
TINY_SAE = SaeRecipe(d_sae=64, k=4, steps=20, batch=64)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return corpus.training_rows(
        load_lexicon(LEXICON_PATH, PREFIXES_PATH), TOKENIZER, 0, "test/training", TINY_MODEL.steps * TINY_MODEL.batch
    )


def lm_of(recipe: ModelRecipe = TINY_MODEL) -> LanguageModel:
    return language_model(train_model.new_model(recipe, len(TOKENIZER), 0, "model"), TOKENIZER)


def test_loss_falls_and_runs_repeat(rows: np.ndarray):
    def run(seed: int) -> list[float]:
        model = train_model.new_model(TINY_MODEL, len(TOKENIZER), seed, "model")
        return train_model.train(model, rows, TINY_MODEL, seed, "model")

    losses = run(0)
    assert losses[0] == pytest.approx(math.log(len(TOKENIZER)), abs=0.6)
    assert losses[-1] < losses[0] - 0.2
    assert run(0) == losses
    assert run(1) != losses


def test_token_losses_are_the_models_own(rows: np.ndarray):
    """Against Hugging Face's loss with padding labelled -100."""
    model = train_model.new_model(TINY_MODEL, len(TOKENIZER), 0, "model").eval()
    tokens = torch.from_numpy(rows[:8].astype(np.int64))
    labels = tokens.masked_fill(tokens == PAD_ID, -100)
    with torch.no_grad():
        assert train_model.token_losses(model, tokens).mean() == pytest.approx(float(model(input_ids=tokens, labels=labels).loss), rel=1e-5)


def test_learning_rate_warms_up_stays_and_falls():
    shape = train_model.learning_rate_shape(100, 0.5, 10)
    assert [shape(0), shape(9), shape(50), shape(75), shape(100)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0])


def test_residual_norm_grows_from_the_start(rows: np.ndarray):
    norms = train_saes.residuals(lm_of(ModelRecipe()), rows[:16]).norm(dim=-1).mean(1)
    assert (norms[1:] / norms[:-1] > 1.2).all()
    assert norms[-1] > 6 * norms[0]


def test_residuals_are_hidden_states_of_text_tokens(rows: np.ndarray):
    lm, tokens = lm_of(), torch.from_numpy(rows[:20].astype(np.int64))
    with torch.no_grad():
        hidden = lm.model(input_ids=tokens, output_hidden_states=True).hidden_states
    text = (tokens != PAD_ID) & (tokens != BOS_ID) & (tokens != EOS_ID)
    ours = train_saes.residuals(lm, rows[:20])
    for layer in (0, 1):  # the last one of hidden_states has the final norm in it
        torch.testing.assert_close(ours[layer], hidden[layer + 1][text])


def sparse_data(n: int, generator: torch.Generator) -> torch.Tensor:
    """Sums of 4 of 24 directions in 32 dimensions, off centre."""
    directions = nn.functional.normalize(torch.randn(24, 32, generator=generator), dim=-1)
    chosen = torch.rand(n, 24, generator=generator).argsort(1)[:, :4]
    codes = torch.zeros(n, 24).scatter(1, chosen, 1 + torch.rand(n, 4, generator=generator))
    return 20 * (codes @ directions) + 3


def as_sae(weights: dict[str, torch.Tensor]) -> Sae:
    """The weights as the package reads them."""
    d_in, d_sae = weights["W_enc"].shape
    return Sae(**weights, meta=SaeMeta("test", "", 1, "jumprelu", "resid_post", False, 1, d_in, d_sae, ""))


def test_sae_learns_sparse_directions():
    x = sparse_data(6000, torch.Generator().manual_seed(0))
    recipe = replace(TINY_SAE, d_sae=48, steps=300, batch=256)
    trained, barely = (
        measure.sae_metrics(as_sae(train_saes.train_sae(x[:5000], replace(recipe, steps=steps), 0, 0)), x[5000:]) for steps in (300, 1)
    )
    assert trained["explained_variance"] > 0.7 > barely["explained_variance"] + 0.2
    assert trained["l0"] == pytest.approx(recipe.k, abs=1.0)


def test_stored_form_computes_what_was_trained():
    """b_dec and the input scale are folded in: the JumpReLU form on x gives the training form's numbers on scale * x."""
    generator = torch.Generator().manual_seed(1)
    sae = train_saes.BatchTopK(16, SaeRecipe(d_sae=40), torch.randn(16, generator=generator), generator)
    with torch.no_grad():
        sae.b_enc.normal_(generator=generator)
    x, scale, threshold = 10 * torch.randn(50, 16, generator=generator), 0.13, 0.4
    stored = as_sae(train_saes.jump_relu_weights(sae, scale, threshold))
    with torch.no_grad():
        pre = sae.pre(scale * x)
        codes = pre * (pre > threshold)
        torch.testing.assert_close(encode(stored, x), codes / scale, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(decode(stored, codes / scale), (codes @ sae.W_dec + sae.b_dec) / scale, rtol=1e-4, atol=1e-4)


def mirror_sae(d: int) -> dict[str, torch.Tensor]:
    """relu(x) - relu(-x) = x: reconstructs everything with d active features of 2d."""
    eye = torch.eye(d)
    return {
        "W_enc": torch.cat([eye, -eye], 1),
        "W_dec": torch.cat([eye, -eye], 0),
        "b_enc": torch.zeros(2 * d),
        "b_dec": torch.zeros(d),
        "threshold": torch.zeros(2 * d),
    }


def test_measures_of_a_perfect_and_a_blind_sae(rows: np.ndarray):
    lm = lm_of()
    x = train_saes.residuals(lm, rows[:40])[1]
    clean = measure.held_out_loss(lm, rows[:40])
    perfect = as_sae(mirror_sae(32))
    blind = replace(perfect, threshold=torch.full((64,), torch.inf), b_dec=x.mean(0))
    metrics = measure.sae_metrics(perfect, x)
    assert metrics["explained_variance"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["l0"] == pytest.approx(32.0)
    assert metrics["dead"] == 0
    missed = measure.sae_metrics(blind, x)
    assert missed["explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert (missed["l0"], missed["dead"]) == (0.0, 64)
    # EOS and padding are reconstructed too, which moves nothing that is measured.
    assert measure.loss_recovered(lm, perfect, 1, rows[:40], x.mean(0), clean) == pytest.approx(1.0, abs=1e-3)
    assert measure.loss_recovered(lm, blind, 1, rows[:40], x.mean(0), clean) == pytest.approx(0.0, abs=1e-3)
    assert measure.held_out_loss(lm, rows[:40]) == clean


def test_diverged_weights_are_not_stored(tmp_path: Path):
    weights = {**mirror_sae(4), "b_dec": torch.tensor([0.0, torch.nan, 1e6, 0.0])}
    with pytest.raises(ValueError, match="b_dec not finite"):
        train_saes.save_sae(weights, tmp_path, 0, "test")


@pytest.fixture(scope="module")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole world from nothing, and adopted."""
    folder = tmp_path_factory.mktemp("world")
    recipe = build.WorldRecipe(TINY_MODEL, TINY_SAE, OracleSizes(fit_documents=80, sentences=20, items=10), 12, 10, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "THREADS", torch.get_num_threads())
        build.build_world(LEXICON_PATH, PREFIXES_PATH, folder / "build/seed_0", 0, recipe)
    (folder / "shipped").mkdir()
    build.adopt(folder / "build", folder / "shipped")
    return folder


def test_a_world_from_nothing_is_complete(tiny_world: Path):
    shipped = tiny_world / "shipped"
    assert {path.name for path in shipped.iterdir()} == {*build.SHIPPED, build.METRICS}
    assert [path.name for path in (tiny_world / "build").iterdir()] == ["seed_0"]
    metrics = json.loads((shipped / build.METRICS).read_text(encoding="utf-8"))["seeds"][0]
    assert [layer["layer"] for layer in metrics["layers"]] == [0, 1, 2]
    assert metrics["seconds"]["total"] > 0
    assert metrics["language"]["model_loss"] < math.log(len(TOKENIZER))
    shutil.rmtree(tiny_world / "build/seed_0/saes")
    with pytest.raises(FileNotFoundError, match="lacks saes: build it with `make world SEED=0`"):
        build.adopt(tiny_world / "build", shipped)


def test_the_card_of_any_world_can_be_written(tiny_world: Path):
    metrics = json.loads((tiny_world / "shipped" / build.METRICS).read_text(encoding="utf-8"))
    page = card.render_card(metrics, ["sea", "joy"])
    assert "{" not in page
    assert f"{metrics['seeds'][0]['layers'][2]['explained_variance']:.3f}" in page
    assert "not measured" not in page
    untimed = {"seeds": [{**metrics["seeds"][0], "seconds": None}]}
    assert "not measured" in card.render_card(untimed, ["sea", "joy"])
    assert "== built" in card.comparison(metrics["seeds"][0], metrics)
