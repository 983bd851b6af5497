"""Problems made by hand for methods that select SAE features: the codes of every token are given, the SAE reads them off the residual."""

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import torch
from engine_models import shipped_model
from methods_world import toy_tokens
from oracles import inner_hook_points

from saesteer.core.tables import validate
from saesteer.engine.saes import Sae, SaeMeta
from saesteer.methods.fit.problem import Problem, TrainingText
from saesteer.settings.registry import Training, recipes_of
from saesteer.steps.features import FEATURES

Codes = Sequence[Sequence[Sequence[float]]]
"""Per text, per token, a code of every feature."""


def reading_sae(n_features: int, decoder: torch.Tensor | None = None) -> Sae:
    """An SAE whose codes are the residual's coordinates where they are positive."""
    decoder = torch.eye(n_features) if decoder is None else decoder
    meta = SaeMeta("hand", "0" * 64, 1, "jumprelu", "resid_post", False, 3, n_features, n_features, "0" * 64)
    zeros = torch.zeros(n_features)
    return Sae(torch.eye(n_features), zeros, zeros, decoder, torch.zeros(decoder.shape[1]), meta)


def table(n_features: int, **columns: Sequence[object]) -> pl.DataFrame:
    """FEATURES rows, every feature alike but for the columns that are given."""
    usual: dict[str, Any] = {
        "layer": 3,
        "density": 0.01,
        "max_activation": 4.0,
        "n_examples": 20,
        "explanations": [],
        "explanation": None,
        "page": None,
        "concept": None,
        "concept_share": None,
        "top_logit_lens_tokens": ["a"],
        "top_logit_lens_token_ids": [1],
        "input_score": 0.5,
        "input_score_reason": None,
        "output_score": 0.5,
        "min_rank": 0,
        "max_prob": 0.5,
        "delta_token_confidence": 1.0,
        "a_max": 5.0,
        "decoder_norm": 1.0,
    }
    rows = {name: [value] * n_features for name, value in usual.items()} | {"feature": range(n_features)} | columns
    # From the last row up: no method may rest on the table's order.
    return validate(FEATURES, pl.DataFrame(rows, schema_overrides=FEATURES.schema).select(list(FEATURES.columns)).reverse(), "tests")


def by_codes(
    positive: Codes, negative: Codes, decoder: torch.Tensor | None = None, label: int | None = None, seed: int = 0, **columns: Sequence[Any]
) -> Problem:
    """A problem whose texts have these codes; columns are those of its table of features."""
    n_features = len(positive[0][0])
    made = Problem(
        lm=shipped_model(),
        sae=reading_sae(n_features, decoder),
        layer=3,
        concept="by hand",
        positive=tuple(TrainingText([1] * (1 + len(text)), 1) for text in positive),
        negative=tuple(TrainingText([1] * (1 + len(text)), 1) for text in negative),
        features=table(n_features, **columns),
        label=label,
        effects=None,
        seed=seed,
        training=Training(recipes_of("shipped")),
    )
    made.__dict__["positive_tokens"] = toy_tokens(positive)
    made.__dict__["negative_tokens"] = toy_tokens(negative)
    return made


def one_token_each(values: Sequence[Sequence[float]]) -> list[list[list[float]]]:
    """Texts of a token each, from their codes."""
    return [[list(codes)] for codes in values]


def without(problem: Problem, feature: int, share: float) -> Callable[[torch.Tensor, TrainingText], torch.Tensor]:
    """A change for `slow_vectors.slow_loss`: `share` of what the feature writes taken off where the text says something."""

    def edit(residual: torch.Tensor, text: TrainingText) -> torch.Tensor:
        changed = residual.clone()
        output = slice(text.n_context, len(text.ids))
        codes = inner_hook_points.codes(problem.sae, residual[output])[:, feature].float()
        changed[output] -= share * codes[:, None] * problem.sae.W_dec[feature]
        return changed

    return edit
