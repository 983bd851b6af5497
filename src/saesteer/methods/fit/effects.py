"""What steering with a vector does, measured on the text that it makes the model write: P2 (SAE-TS, arXiv 2411.02193), section 3.

Texts are sampled with the vector added at every position, then read by the model as it is; the effect is their mean feature activation less
that of unsteered texts from the same prompts and the same random numbers. Vectors are decoder rows (P2: of a larger SAE than the one that
reads) and, where more are wanted, sums of two, each scaled so that it raises the loss of unsteered texts by the same amount.

Where this differs from P2's program: the first position (the beginning-of-sequence token) and the token that ends a text are left out of
the means, for SAEs are not trained on them (the program counts the former, whose activations no vector changes, and never ends a text); the
loss is that of the model's own unsteered texts, and what it rises by is set rather than where it ends (the program takes 4 nats on web text
and code); top_p is 1 where the settings say nothing (the program: .3).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from saesteer.core.counter_rng import streams, text_keys, uniforms
from saesteer.engine.continuation import Sampling
from saesteer.engine.finite import check_finite
from saesteer.engine.generate import steered_texts
from saesteer.engine.hook_points import HookPoint, reading, sae_hook_point
from saesteer.engine.interventions import Addition, Nothing
from saesteer.engine.loss_rise import loss_rises, padded, strengths_at_rise, unsteered
from saesteer.engine.memory import Halving
from saesteer.engine.models import LanguageModel, fewest_texts, pad_rows, shape_matters
from saesteer.engine.saes import Sae, encode
from saesteer.engine.steering import Intervention
from saesteer.settings.methods import EffectSettings

ALGORITHM_VERSION = 1

TEMPERATURE = 1.0
"""Sampling temperature of the texts (P2's program leaves it at its library's default)."""

VECTORS_AT_A_TIME = 128
"""Vectors whose effects are given back together."""

OCTAVES = (-2, 2)
"""A vector's norm is looked for between 2^-2 and 2^2 times the mean norm of the unsteered residual."""

HALVINGS = 4
"""How often that range is halved, in the logarithm, before the rise is interpolated: down to a quarter of an octave."""

ACTIVATIONS_AT_A_TIME = (2**23, 2**28)
"""Most feature activations (tokens times features) at a time on a CPU and on a GPU."""


def effect_features(n_features: int, n: int, seed: int, layer: int) -> list[tuple[int, ...]]:
    """The features whose decoder rows are added up in each vector, by vector number: the first n of a list that is the same for every n.

    First every feature by itself, in a seeded order; then pairs: each feature with the next in that order, then each with the next but one,
    and so on, so that no pair comes twice and all features are in equally many.
    """
    (use,) = text_keys(["effects"])  # another permutation than the feature set's of the same seed
    order = np.argsort(uniforms(seed, layer, use, np.arange(n_features), step=0), kind="stable").tolist()
    pairs = ((order[number % n_features], order[(number + number // n_features + 1) % n_features]) for number in range(n - n_features))
    return [*((feature,) for feature in order[:n]), *pairs]


def effect_vectors(sae: Sae, n: int, seed: int, layer: int) -> Float[Tensor, "vector d_model"]:
    """Decoder rows of `effect_features` to unit norm, of two of them the sum to unit norm: the directions whose effects are measured. (P2
    has enough rows in a larger SAE than the one that reads.)"""
    features = effect_features(sae.meta.n_features, n, seed, layer)
    single = [numbers[0] for numbers in features if len(numbers) == 1]
    rows = _to_unit_norm(sae.W_dec[torch.tensor(single, device=sae.W_dec.device)].float(), layer)
    pairs = features[len(single) :]
    if not pairs:
        return rows
    row_of = {feature: number for number, feature in enumerate(single)}
    first, second = torch.tensor([[row_of[feature] for feature in pair] for pair in pairs], device=rows.device).T
    return torch.cat([rows, _to_unit_norm(rows[first] + rows[second], layer)])


def _to_unit_norm(rows: Float[Tensor, "vector d_model"], layer: int) -> Float[Tensor, "vector d_model"]:
    norms = rows.norm(dim=1, keepdim=True)
    if bool((norms == 0).any()):
        raise ValueError(f"the SAE of layer {layer} has decoder rows, or sums of two, of zeros, which have no direction: take another SAE")
    return rows / norms


@torch.no_grad()
def scaled_to_loss_rise(
    lm: LanguageModel, hook_point: HookPoint, directions: Float[Tensor, "vector d_model"], texts: Sequence[Sequence[int]], target: float
) -> Float64[Tensor, " vector"]:
    """Each unit direction's norm at which it raises the mean loss of texts by `target` nats a token (P2, section 3)."""
    of = unsteered(lm, hook_point, texts)
    usual = math.log2(float(of.value[of.predicting].float().norm(dim=1).mean()))
    low, high = (torch.full((len(directions),), usual + octave, dtype=torch.double, device=lm.device) for octave in OCTAVES)
    return strengths_at_rise(lm, hook_point, directions, of, target, (low, high), HALVINGS)[0]


@dataclass(frozen=True)
class EffectRun:
    """What the effects of all vectors of a layer share. `prompts` are token ids, beginning-of-sequence token first; every vector continues
    each of them `settings.n_rollouts` times."""

    lm: LanguageModel
    sae: Sae
    layer: int
    prompts: Sequence[Sequence[int]]
    settings: EffectSettings
    seed: int

    @cached_property
    def hook_point(self) -> HookPoint:
        """Where vectors are added and activations read."""
        return sae_hook_point(self.lm, self.layer, self.sae.meta)


@torch.no_grad()
def measured_effects(run: EffectRun, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """EFFECTS rows of the vectors that `rows` names (column vector, numbers below `settings.n_vectors`), `VECTORS_AT_A_TIME` together.

    At least one prompt has a token besides the first. The effect of a vector is the mean over its texts of the mean over their tokens,
    prompts included, of each feature's activation in the model without the vector, less that of unsteered texts. A row depends on its own
    vector, the prompts, the settings and the seed only.
    """
    if max(map(len, run.prompts), default=0) < 2:
        raise ValueError("effects: no prompt has a token besides the first, so that a text may be without any to measure; add a longer one")
    directions = effect_vectors(run.sae, run.settings.n_vectors, run.seed, run.layer)
    baseline = baseline_of(run)
    for block in rows["vector"].unique().sort().to_frame().iter_slices(VECTORS_AT_A_TIME):
        units = directions[block["vector"].to_list()]
        scales = scaled_to_loss_rise(run.lm, run.hook_point, units, baseline.scaling_texts, run.settings.loss_rise)
        additions = [Addition(unit, scale) for unit, scale in zip(units, scales.tolist(), strict=True)]
        yield effect_rows(run, block["vector"], (units.double() * scales[:, None]).float(), additions, baseline)


@dataclass(frozen=True)
class Baseline:
    """What steered texts are compared with."""

    mean_activations: Float64[Tensor, "1 n_features"]  # of unsteered texts
    scaling_texts: list[list[int]]  # of these, whose loss is measured: about one of every second prompt


def baseline_of(run: EffectRun) -> Baseline:
    """The unsteered texts of these prompts and rollouts."""
    unsteered = written_texts(run, [Nothing()])
    return Baseline(mean_activations(run, unsteered), [ids for ids in unsteered[0] if len(ids) > 1][:: 2 * run.settings.n_rollouts])


def effect_rows(
    run: EffectRun, numbers: pl.Series, added: Float[Tensor, "vector d_model"], additions: Sequence[Addition], baseline: Baseline
) -> pl.DataFrame:
    """EFFECTS rows of these vectors, added so."""
    effect = mean_activations(run, written_texts(run, additions)) - baseline.mean_activations
    texts = unsteered(run.lm, run.hook_point, baseline.scaling_texts)
    columns = {
        "layer": [run.layer] * len(numbers),
        "vector": numbers,
        "direction": added.cpu().numpy(),
        "effect": effect.float().cpu().numpy(),
        "loss_rise": loss_rises(run.lm, run.hook_point, added, texts).cpu().numpy(),
    }
    return pl.DataFrame(columns).cast({"direction": pl.List(pl.Float32), "effect": pl.List(pl.Float32), "loss_rise": pl.Float64})


def written_texts(run: EffectRun, interventions: Sequence[Intervention]) -> list[list[list[int]]]:
    """Whole texts, without the token that ends one, of every intervention: prompt by prompt, all rollouts of one together. Their random
    numbers are those of prompt and rollout, whatever steers them."""
    n_rollouts = run.settings.n_rollouts
    texts = [(prompt, rollout) for prompt in range(len(run.prompts)) for rollout in range(n_rollouts)]
    drawn = streams(run.seed, text_keys(f"{prompt}/{rollout}" for prompt, rollout in texts))
    columns = {
        "row": np.arange(len(interventions) * len(texts)),
        "intervention": np.repeat(np.arange(len(interventions)), len(texts)),
        "prompt": [prompt for prompt, _ in texts] * len(interventions),
        "stream": np.tile(drawn, len(interventions)),
    }
    rows = pl.DataFrame(columns, schema_overrides={"row": pl.UInt32}).with_columns(factor=pl.lit("1"))
    sampling = Sampling(run.settings.max_new_tokens, TEMPERATURE, run.settings.top_k, "", run.settings.top_p)
    frames = steered_texts(run.lm, run.sae, run.layer, rows, interventions, run.prompts, sampling)
    texts_of_rows = rows.select("row", "prompt").join(pl.concat(frames), on="row", how="left", maintain_order="left")
    whole = [
        [*run.prompts[prompt], *(token_ids[:-1] if stopped else token_ids)]
        for prompt, token_ids, stopped in texts_of_rows.select("prompt", "token_ids", "stopped").iter_rows()
    ]
    return [whole[start : start + len(texts)] for start in range(0, len(whole), len(texts))]


def mean_activations(run: EffectRun, texts: Sequence[Sequence[list[int]]]) -> Float64[Tensor, "vector n_features"]:
    """Mean over each vector's texts of the mean over their tokens (the first position left out) of each feature's activation, unsteered. A
    text without any is left out. Texts whose prompts have one length are read together, at a width of that length's own."""
    total = torch.zeros(len(texts), run.sae.meta.n_features, dtype=torch.double, device=run.lm.device)
    n_texts = torch.zeros(len(texts), 1, dtype=torch.double, device=run.lm.device)
    lengths = [len(prompt) for prompt in run.prompts for _ in range(run.settings.n_rollouts)]
    for length in sorted(set(lengths)):
        of_length = [ids for of_vector in texts for ids, n in zip(of_vector, lengths, strict=True) if n == length]
        whole = padded(of_length, length + run.settings.max_new_tokens)
        ids, is_text = (part.unflatten(0, (len(texts), -1)) for part in whole)  # [vector text seq]
        is_text[:, :, 0] = False
        total += _summed_means(run, ids, is_text)
        n_texts += is_text.any(dim=2).sum(dim=1, keepdim=True).to(n_texts)
    return total / n_texts


def _summed_means(
    run: EffectRun, ids: Int[Tensor, "vector text seq"], is_text: Bool[Tensor, "vector text seq"]
) -> Float64[Tensor, "vector feature"]:
    """Sum over each vector's texts of the mean over their tokens of each feature's activation."""
    _, n_texts, width = ids.shape
    least = -(-fewest_texts(run.lm, width) // n_texts)
    most = ACTIVATIONS_AT_A_TIME[run.lm.device.type == "cuda"] // (n_texts * width * run.sae.meta.n_features)
    at_a_time = max(least, min(most, VECTORS_AT_A_TIME))  # more never come, and a GPU's shapes are filled up

    def summed(part: slice, size: int) -> Tensor:
        n_rows = size if shape_matters(run.lm) else least
        padded_ids, weight = (pad_rows(rows[part], n_rows).flatten(0, 1).to(run.lm.device) for rows in (ids, is_text))
        activations = encode(run.sae, reading(run.lm, padded_ids, run.hook_point).read).float()  # [vector*text seq n_features]
        share = weight / weight.sum(dim=1, keepdim=True).clamp(min=1)
        means = torch.einsum("rs,rsf->rf", share.float(), activations).unflatten(0, (-1, n_texts))
        check_finite("feature activations are", means, run.sae.W_enc)
        return means.double().sum(dim=1)[: len(ids[part])]

    return torch.cat(list(Halving("activations on steered texts", run.lm.device, least=1).over(len(ids), at_a_time, summed)))
