"""docs/models/families.csv: what tiny random models of every family give. `python tests/family_table.py` writes it, and
docs/reference/models.md shows it."""

import csv
from pathlib import Path

import polars as pl
from engine_models import TINY, prompt_of, sweep_rows, tiny_model, tiny_sae
from model_families import RUN
from oracles import plain_hooks

from saesteer.engine import models
from saesteer.engine.continuation import Sampling
from saesteer.engine.generations import feature_texts
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.output_score import output_scores

TABLE = Path(__file__).parents[1] / "docs/models/families.csv"
HEADER = ["family (model_type)", "class of transformers", "its own", "scores differ by", "equal texts"]
LAYER = 2
HOOK_POINTS = ("resid_pre", "resid_post")
WHOLE_FORWARDS = ("mpt",)
"""Families whose own cached generation differs from their whole forwards in transformers 5.23: texts are compared with the latter."""


def row(family: str) -> list[str]:
    """A family's row, computed."""
    lm = tiny_model(family)
    error = max(_score_difference(lm, hook_point) for hook_point in HOOK_POINTS)
    equal = [alike for hook_point in HOOK_POINTS for alike in _texts_alike(lm, hook_point, family in WHOLE_FORWARDS)]
    structure = lm.structure
    own = [f"{sum(structure.linear)} of {lm.n_layers} layers without keys and values"] * any(structure.linear)
    own += ["logits scaled"] * (structure.logit_scale != 1) + ["logits capped"] * (structure.final_logit_softcapping is not None)
    differ = "at most 1e-6" if error <= 1e-6 else f"{error:.0e}"
    return [family, type(lm.model).__name__, ", ".join(own), differ, f"{sum(equal)} of {len(equal)}"]


def _score_difference(lm: models.LanguageModel, hook_point: str) -> float:
    sae = tiny_sae(LAYER, hook_point=hook_point)
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[[5, 0]].roll(1, dims=0), 20)
    rows = output_scores(lm, sae, LAYER, [5, 0], lens, prompt_of("llama"), 10.0).to_dicts()
    ids = models.prompt_token_ids(lm, prompt_of("llama"))
    expected = [
        plain_hooks.output_score(lm.model, sae, LAYER, row["feature"], 10.0, ids, tokens, len(lm.tokenizer))
        for row, tokens in zip(rows, lens.tolist(), strict=True)
    ]
    return max(abs(row["output_score"] - one["output_score"]) for row, one in zip(rows, expected, strict=True))


def _texts_alike(lm: models.LanguageModel, hook_point: str, whole_forwards: bool) -> list[bool]:
    sae = tiny_sae(LAYER, hook_point=hook_point)
    texts = pl.concat(feature_texts(lm, sae, LAYER, sweep_rows(12), TINY, Sampling(8, 0.0, stop=""), 3))
    alike = []
    for text in texts.to_dicts():
        steering = (lm.model, sae, LAYER, text["feature"], float(text["factor"]), models.prompt_token_ids(lm, TINY[text["prefix_id"]]))
        if whole_forwards:
            expected = plain_hooks.sampled(*steering, [0.0] * text["n_tokens"], 1.0, 1)
        else:
            expected = plain_hooks.generated(*steering, 8, [2])
        alike.append(text["token_ids"] == expected)
    return alike


if __name__ == "__main__":
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *map(row, RUN)])
