"""Directions of texts, against transformers' own hidden states."""

import polars as pl
import pytest
import torch
from engine_models import WORLD, shipped_sae

from saesteer.engine.activations import decoder_cosines, difference_of_means
from saesteer.engine.hook_points import hook_point_of
from saesteer.engine.models import load_language_model


def test_the_direction_of_a_word_is_that_of_the_texts_that_have_it():
    """Against transformers' own hidden states of the shipped model: of all tokens but the first, both means in plain loops."""
    # Not the model that tests share: transformers leaves hooks where it has given hidden states.
    lm, sae = load_language_model(WORLD / "model", "float32", "cpu"), shipped_sae(6)
    texts = pl.read_parquet(WORLD / "texts.parquet", n_rows=14)["token_ids"].to_list()
    groups = texts[:9], texts[9:]
    means = []
    for group in groups:
        rows = [lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[7][0, 1:] for ids in group]
        means.append(torch.cat(rows).mean(dim=0))
    (direction,) = difference_of_means(lm, [hook_point_of(lm, 6, "resid_post")], *groups)
    torch.testing.assert_close(direction, means[0] - means[1], rtol=1e-4, atol=1e-5)
    expected = [float(row @ direction / row.norm() / direction.norm()) for row in sae.W_dec[:5]]
    assert decoder_cosines(sae, direction)[:5] == pytest.approx(expected, abs=1e-6)
