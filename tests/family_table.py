"""docs/reference/models.md: what tiny random models of every family give, and which families are refused. `python tests/family_table.py`
writes it."""

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
from saesteer.workflow.families import REFUSED

PAGE = Path(__file__).parents[1] / "docs/reference/models.md"
LAYER = 2
HOOK_POINTS = ("resid_pre", "resid_post")
WHOLE_FORWARDS = ("mpt",)
"""Families whose own cached generation differs from their whole forwards in transformers 5.23: texts are compared with the latter."""

HEAD = """# Models

Any causal language model that transformers knows runs if its decoder blocks hand one residual stream to each other, its logits are its
head's outputs (scaled and capped or not), and what it keeps of a prompt is keys and values or, in some of its layers, the states of linear
attention, of a convolution or of a state-space layer. This is tried on two tokens when a model is loaded (`saesteer.engine.structure`). Of
models for images and text the text's part is loaded.

Families that were tried, as random models of 4 layers, width 32, with an SAE on the input and on the output of layer 2. Scores: the
output score against whole forwards with a plain hook, 2 features at each hook point. Texts: steered greedy texts of 8 tokens that equal
those of transformers' `generate` with a hook (of `mpt`, of whole forwards). Written by `python tests/family_table.py`, and checked by
`make test-all`. None of the real models has been run.

| family (`model_type`) | class of transformers | its own | scores differ by | equal texts |
| --- | --- | --- | --- | --- |
"""

REFUSALS = """
Families that `saesteer check` refuses, by `config.json` alone:

| `model_type` | reason |
| --- | --- |
"""


def row(family: str) -> str:
    """A family's line, computed."""
    lm = tiny_model(family)
    error = max(_score_difference(lm, hook_point) for hook_point in HOOK_POINTS)
    equal = [alike for hook_point in HOOK_POINTS for alike in _texts_alike(lm, hook_point, family in WHOLE_FORWARDS)]
    structure = lm.structure
    own = [f"{sum(structure.linear)} of {lm.n_layers} layers without keys and values"] * any(structure.linear)
    own += ["logits scaled"] * (structure.logit_scale != 1) + ["logits capped"] * (structure.final_logit_softcapping is not None)
    differ = "at most 1e-6" if error <= 1e-6 else f"{error:.0e}"
    return f"| `{family}` | {type(lm.model).__name__} | {', '.join(own)} | {differ} | {sum(equal)} of {len(equal)} |\n"


def _score_difference(lm: models.LanguageModel, hook_point: str) -> float:
    sae = tiny_sae(LAYER, hook_point=hook_point)
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[[5, 0]].roll(1, dims=0), 20)
    rows = output_scores(lm, sae, LAYER, [5, 0], lens, prompt_of("llama"), 10.0).to_dicts()
    ids = models.prompt_token_ids(lm, prompt_of("llama"))
    expected = [
        plain_hooks.output_score(lm.model, sae, LAYER, row["feature"], 10.0, ids, tokens)
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


def page(rows: list[str]) -> str:
    """The whole page."""
    refused = [f"| `{family}` | {reason} |\n" for family, reason in sorted(REFUSED.items())]
    return HEAD + "".join(rows) + REFUSALS + "".join(refused)


if __name__ == "__main__":
    PAGE.write_text(page([row(family) for family in RUN]), encoding="utf-8")
