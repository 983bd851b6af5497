"""Quantities of features that need a model: against the plain model, and steps of a forward taken apart."""

import polars as pl
import pytest
import torch
from engine_models import FAMILIES, model_and_sae
from methods_world import problem
from oracles import plain_hooks
from selection_problems import without
from slow_vectors import slow_loss

from saesteer.methods.fit.problem import Problem, Text
from studies.questions.quantities import decoder_quantities, label_quantities


@pytest.mark.parametrize("family", [*FAMILIES, "shipped"])
def test_of_decoder_rows(family: str) -> None:
    lm, sae = model_and_sae(family, 1)
    made = decoder_quantities(lm, sae.W_dec[:40])
    head = lm.head.weight.double()
    for feature, (confidence, cosine) in enumerate(made.iter_rows()):
        logits = plain_hooks.lens_logits(lm.model, sae.W_dec[feature]).double() * lm.structure.logit_scale
        assert confidence == pytest.approx(float(logits.log_softmax(dim=0).max()), rel=1e-4, abs=1e-5)
        row = sae.W_dec[feature].double()
        assert cosine == pytest.approx(float((head @ row / head.norm(dim=1) / row.norm()).max()), rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_removal_from_labelled_texts() -> None:
    """Of features that fire on the concept's texts: losses in loops, and their slope."""
    given = problem("sea", 1)
    rows = [
        (f"{kind}{place}", text.ids, text.n_context, kind)
        for kind in ("positive", "negative")
        for place, text in enumerate(getattr(given, kind))
    ]
    texts = pl.DataFrame(rows, schema=["text_id", "token_ids", "n_context", "concept"], orient="row")
    read = plain_hooks.residuals(given.lm.model, given.positive[0].ids, given.layer)[given.positive[0].n_context :]
    fires = sorted(plain_hooks.code_of(given.sae, read[-2]).topk(2).indices.tolist())
    features = given.features.filter(pl.col("feature").is_in(fires)).with_columns(concept=pl.lit("positive"))
    (made,) = label_quantities(given.lm, given.sae, given.layer, features, texts)
    assert made["feature"].to_list() == fires

    def rise(feature: int, share: float) -> float:
        kinds = (given.positive, given.negative)
        return sum(sign * (loss(given, kind, feature, share) - loss(given, kind)) for sign, kind in zip((1, -1), kinds, strict=True))

    for feature, gradient, ablation in made.select("feature", "gradient", "ablation").iter_rows():
        assert ablation == pytest.approx(rise(feature, 1.0), abs=2e-6)
        assert gradient == pytest.approx((rise(feature, 0.05) - rise(feature, -0.05)) / 0.1, abs=1e-4)
    assert made["ablation"].abs().max() > 1e-4
    said = [
        [plain_hooks.residuals(given.lm.model, text.ids, given.layer)[text.n_context :] for text in kind]
        for kind in (given.positive, given.negative)
    ]
    positive, negative = (torch.cat(rows).mean(dim=0) for rows in said)
    for feature, cosine in made.select("feature", "mean_cosine").iter_rows():
        assert cosine == pytest.approx(float(torch.cosine_similarity(positive - negative, given.sae.W_dec[feature], dim=0)), abs=1e-5)
    assert list(label_quantities(given.lm, given.sae, given.layer, features.with_columns(concept=pl.lit("law")), texts)) == []


def loss(given: Problem, texts: tuple[Text, ...], feature: int = 0, share: float = 0.0) -> float:
    """Mean loss of texts, with a share of what a feature writes taken off."""
    with torch.no_grad():
        return float(slow_loss(given, texts, without(given, feature, share)))
