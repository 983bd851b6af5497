"""Ours against the published procedure: one run, one thread, the same random model, alternating; median of the repeats.

    OMP_NUM_THREADS=1 python benchmarks/bench_main_job.py

writes benchmarks/RESULTS.md. Times are process times (the machine may be shared), with wall times beside them. `--repeats 1 --write none`
is a quick look.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import papers_procedure
import torch
import transformers
from measuring import command_line, load_note, peak_flops, publish, used, written_by
from random_model import MAIN_JOB, PREFIXES, PROMPT, SCORE_FACTOR, SWEEP_FACTOR, by_id, random_gemma2, random_sae_tensors, sae_meta, swept
from sae_lens import SAE
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig

from saesteer.core.markdown import table
from saesteer.engine.continuation import Sampling
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import Sae

D_MODEL, N_FEATURES, LAYER = MAIN_JOB.d_model, MAIN_JOB.n_features, 5
N_PUBLISHED, N_CLEANED, N_OURS, N_SWEEP_THEIRS, N_SWEEP_OURS = 6, 40, 1024, 1, 64
"""Features in one timing; the sweep's have len(PREFIXES) texts each."""


def model_and_saes() -> tuple[LanguageModel, Any, Sae]:
    """A random Gemma-2 of 72M parameters, and one random JumpReLU SAE twice: as sae-lens' object and as ours."""
    lm = random_gemma2(MAIN_JOB, (PROMPT, *PREFIXES))
    tensors = random_sae_tensors(MAIN_JOB, LAYER)
    theirs = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_MODEL, d_sae=N_FEATURES, apply_b_dec_to_input=False))
    theirs.load_state_dict(tensors)
    return lm, theirs, Sae(**tensors, meta=sae_meta(MAIN_JOB, LAYER))


@dataclass(frozen=True)
class Timing:
    """Units of work a second, by process time and by wall time, and what came out."""

    rate: float
    wall_rate: float
    result: Any


def timed(work: Callable[[], Any], units: Callable[[Any], int]) -> Timing:
    """Run once and divide."""
    took = used(work)
    return Timing(units(took.result) / took.process, units(took.result) / took.wall, took.result)


def score_round(lm: LanguageModel, theirs: SAE, ours: Sae, lens: torch.Tensor) -> dict[str, Timing]:
    """Output scores by the three programs, one after the other."""

    def published(procedure: Callable[..., dict[int, float]], n: int) -> Timing:
        tokens = {feature: lens[feature].tolist() for feature in range(n)}
        lm.model.requires_grad_(procedure is papers_procedure.output_scores)
        timing = timed(lambda: procedure(lm.model, lm.tokenizer, theirs, LAYER, tokens, PROMPT, SCORE_FACTOR, "cpu"), len)
        lm.model.requires_grad_(False)
        return timing

    return {
        "published": published(papers_procedure.output_scores, N_PUBLISHED),
        "cleaned": published(papers_procedure.cleaned_output_scores, N_CLEANED),
        "ours": timed(lambda: output_scores(lm, ours, LAYER, range(N_OURS), lens[:N_OURS], PROMPT, SCORE_FACTOR), len),
    }


def sweep_round(lm: LanguageModel, theirs: SAE, ours: Sae) -> dict[str, Timing]:
    """Generations by both programs; units are new tokens."""
    arguments = (lm.model, lm.tokenizer, theirs, LAYER, range(N_SWEEP_THEIRS), float(SWEEP_FACTOR), PREFIXES)
    return {
        "published": timed(
            lambda: papers_procedure.steered_token_ids(*arguments, do_sample=True, temperature=0.7),
            lambda texts: sum(map(len, texts.values())),
        ),
        "ours": timed(lambda: swept(lm, ours, N_SWEEP_OURS, by_id(PREFIXES), Sampling()), lambda table: int(table["n_tokens"].sum())),
    }


def largest_score_difference(round_: dict[str, Timing]) -> float:
    """Between ours and both of theirs, over the features that they scored."""
    ours = dict(round_["ours"].result.select("feature", "output_score").iter_rows())
    return max(abs(score - ours[feature]) for name in ("published", "cleaned") for feature, score in round_[name].result.items())


def same_greedy_texts(lm: LanguageModel, theirs: SAE, ours: Sae) -> tuple[int, int]:
    """(equal, all) texts of a greedy sweep, token for token."""
    expected = papers_procedure.steered_token_ids(
        lm.model, lm.tokenizer, theirs, LAYER, range(2), float(SWEEP_FACTOR), PREFIXES, do_sample=False
    )
    greedy = swept(lm, ours, 2, by_id(PREFIXES), Sampling(temperature=0.0))
    texts = {(row["feature"], by_id(PREFIXES)[row["prefix_id"]]): row["token_ids"] for row in greedy.to_dicts()}
    return sum(texts[key] == tokens for key, tokens in expected.items()), len(expected)


def median_rate(rounds: list[dict[str, Timing]], name: str, attribute: str = "rate") -> float:
    """Median over the repeats."""
    return statistics.median(getattr(round_[name], attribute) for round_ in rounds)


def ratios_to(rounds: list[dict[str, Timing]], name: str) -> list[float]:
    """How many times ours is faster, repeat by repeat, in order of size."""
    return sorted(round_["ours"].rate / round_[name].rate for round_ in rounds)


def rate_table(rounds: list[dict[str, Timing]], unit: str, names: dict[str, str]) -> str:
    """Rates, and how many times ours is faster, repeat by repeat (median, smallest, largest)."""
    rows = []
    for name, label in names.items():
        ratios = ratios_to(rounds, name)
        faster = "" if name == "ours" else f"**{statistics.median(ratios):.1f}x** ({ratios[0]:.1f}–{ratios[-1]:.1f})"
        rows.append([label, f"{median_rate(rounds, name):,.1f}", f"{median_rate(rounds, name, 'wall_rate'):,.1f}", faster])
    header = ("", f"{unit}/s (process time)", f"{unit}/s (wall time)", "ours is faster by (median, range over repeats)")
    return table(header, rows)


def report(
    lm: LanguageModel, scores: list[dict[str, Timing]], sweeps: list[dict[str, Timing]], peak: float, greedy: tuple[int, int]
) -> list[str]:
    """The section of benchmarks/RESULTS.md."""
    n_parameters = sum(weight.numel() for weight in lm.model.parameters()) / 1e6
    score_share = median_rate(scores, "ours") * MAIN_JOB.feature_flops(LAYER) / peak
    sweep_share = median_rate(sweeps, "ours") * MAIN_JOB.token_flops / peak
    model = f"Random Gemma-2 of {n_parameters:.0f}M parameters ({MAIN_JOB.n_layers} layers, width {D_MODEL}, {MAIN_JOB.n_vocab:,} tokens)"
    sae = f"JumpReLU SAE with {N_FEATURES:,} features at layer {LAYER}"
    machine = f"float32, one CPU thread ({platform.machine()}), torch {torch.__version__}, transformers {transformers.__version__}"
    return [
        *written_by("Speed against the published procedure", "OMP_NUM_THREADS=1 python benchmarks/bench_main_job.py"),
        "",
        f"{model}, {sae}, {machine}. Both programs run in one process, alternating; {len(scores)} repeats.",
        f"{load_note()}; ratios are of process times.",
        "What the published procedure does is in papers_procedure.py.",
        "",
        f"In short: output score {statistics.median(ratios_to(scores, 'published')):.0f} times the procedure as published,"
        f" {statistics.median(ratios_to(scores, 'cleaned')):.0f} times the cleaned one; sweep"
        f" {statistics.median(ratios_to(sweeps, 'published')):.0f} times; {score_share:.0%} and {sweep_share:.0%} of one thread's peak.",
        "",
        "## Output score",
        "",
        rate_table(scores, "features", {"published": "published procedure", "cleaned": "the same, cleaned", "ours": "ours"}),
        "",
        "Cleaned: without device moves, recorded gradients, cache emptying and garbage collections.",
        f"Largest difference between a score of ours and theirs: {max(map(largest_score_difference, scores)):.1e}.",
        "",
        "## Sweep",
        "",
        rate_table(sweeps, "tokens", {"published": "published procedure (`generate`, text by text)", "ours": "ours"}),
        "",
        f"Greedy texts equal token for token: {greedy[0]} of {greedy[1]}.",
        "A random model hardly ever writes a full stop, so nearly all texts have 20 tokens.",
        "",
        "## Share of the machine",
        "",
        f"One thread reaches {peak / 1e9:.0f} GFLOP/s in a large float32 matrix product. Counting the matrix products alone,",
        f"our output score uses {score_share:.0%} of that, our sweep {sweep_share:.0%}.",
        "",
    ]


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lm, theirs, ours = model_and_saes()
    lens, _ = top_logit_lens_tokens(lm, ours.W_dec[:N_OURS], 20)
    greedy = same_greedy_texts(lm, theirs, ours)
    scores, sweeps, peaks = [], [], []
    for _ in range(options.repeats):
        peaks.append(peak_flops())
        scores.append(score_round(lm, theirs, ours, lens))
        sweeps.append(sweep_round(lm, theirs, ours))
    publish(report(lm, scores, sweeps, statistics.median(peaks), greedy), options.write)


if __name__ == "__main__":
    main()
