"""How much an experiment computes; how long that takes on a machine without a GPU, and how much memory: by its models' operations, and how
fast this machine is."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from saesteer.core.markdown import readable_size
from saesteer.settings import Comparison, Experiment, Sweep
from saesteer.sources.corpus import text_columns
from saesteer.sources.features import resolve
from saesteer.steps.keys import n_fit_generations

SHARE_OF_PEAK = 1 / 3
"""Share of a large matrix product's rate that the steps reach, their starts included. Measured on one core in float32, with Gemma-2-2B's
matrices (2 of 26 layers): texts reach 50 % in batches of 72 and 61 % of 288, as products of so few rows reach about 55 and 73 %.
Besides, a job starts Python and reads the model (half a minute of a core), and prompts of different lengths do not share a batch."""
PROMPT_TOKENS = 8
"""About the tokens of a prefix, whose loss is not counted but which are read."""
CHARACTERS_PER_TOKEN = 4
"""About those of a token of English text."""
SMALLER = {
    "writing texts": "fewer features, sweep.factors or sweep.n_prefixes, or a smaller sweep.max_new_tokens",
    "their losses": "a smaller perplexity.model, or fewer texts",
    "activations": "fewer texts, or a smaller max_activating_examples.max_tokens",
    "scores": "fewer features",
    "pilot factors": "fewer features, or a smaller sweep.pilot.n_texts",
}
"""What makes each part of the work smaller."""


@dataclass(frozen=True)
class Amounts:
    """How much of everything an experiment has."""

    model: float
    """Weights of the model that is steered, in numbers."""
    scorer: float
    """Weights of the model that scores texts."""
    sae: float
    """Weights of an SAE."""
    n_layers: int
    n_features: int
    n_texts: int
    n_new: int
    """Tokens of a text, at most."""
    corpus_tokens: int
    """Tokens of the texts that max-activating examples come from."""
    pilot_tokens: int = 0
    """Tokens on which pilot factors are looked for."""


def operations(amounts: Amounts) -> dict[str, float]:
    """Floating-point operations of each part, two a weight and token; of what methods fit, none."""
    one = amounts
    return {
        "writing texts": 2 * one.n_texts * one.n_new * one.model,
        "their losses": 2 * one.n_texts * (PROMPT_TOKENS + one.n_new) * one.scorer,
        "activations": 2 * one.corpus_tokens * (one.model + one.n_layers * one.sae / 2),
        "scores": 2 * one.n_features * one.model,
        "pilot factors": 2 * one.pilot_tokens * one.model,
    }


def in_words(work: Mapping[str, float], flops: float, n_cores: int, needed: int, free: int) -> str:
    """How long, how much memory, and what to make smaller where that is long or more than is free."""
    seconds = {part: count / (flops * SHARE_OF_PEAK) for part, count in work.items()}
    longest = max(seconds, key=lambda part: seconds[part])
    total = sum(seconds.values())
    most = f"{longest} {seconds[longest] / total:.0%} of it"
    text = f"no GPU; {n_cores} cores, now {flops / 1e9:.0f} GFLOP/s. About {duration(total)}, {most};"
    text += f" each job that runs a model takes about {readable_size(needed)}, {readable_size(free)} are free"
    if total > 3600:
        text += f". Shorter: {SMALLER[longest]}"
    if needed > free:
        text += ". It does not fit: take a smaller model or dtype int8 (with torchao), or a machine with more memory"
    elif 2 * needed > free:
        text += ". Two such jobs do not fit at once: run snakemake with --cores 1"
    return text


def duration(seconds: float) -> str:
    """So many minutes, hours or days."""
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return "a minute"


def n_features(experiment: Experiment) -> int:
    return sum(map(len, resolve(experiment).values()))


def n_texts(experiment: Experiment) -> int:
    if not isinstance(experiment, Sweep):
        return n_fit_generations(experiment) if isinstance(experiment, Comparison) else 0
    sweep = experiment.sweep
    return n_features(experiment) * len(sweep.factors) * sweep.n_prefixes * sweep.n_samples


def corpus_tokens(experiment: Experiment) -> int:
    """Tokens of the texts that local max-activating examples are computed from; of texts that are not tokenised yet, about."""
    local = experiment.local_examples
    if not local or not local.texts.is_file():
        return 0
    if {"text_id", "token_ids"} <= text_columns(local.texts):
        lengths = pl.col("token_ids").list.len().cast(pl.Int64)
    else:
        lengths = (pl.col("text").cast(pl.String).str.len_chars().cast(pl.Int64) // CHARACTERS_PER_TOKEN).clip(1, local.max_tokens)
    return int(pl.scan_parquet(local.texts).select(lengths.sum()).collect().item())


def sae_bytes(experiment: Experiment) -> int:
    """Encoder and decoder in float32."""
    return 2 * experiment.saes.d_model * experiment.saes.n_features * 4
