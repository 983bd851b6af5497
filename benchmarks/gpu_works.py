"""The main kinds of work at Gemma-2-2B's shapes, in slices that fill batches: what `gpu_counts.py` counts and `gpu_measured.py` times."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import torch
from random_model import PROMPT, Shape, by_id, swept

from saesteer.engine.continuation import Sampling
from saesteer.engine.generate import steered_texts
from saesteer.engine.interventions import ActivationEdit, Addition, Intervention, LowRankSubspace, LowRankWeights, Nothing, WeightChange
from saesteer.engine.models import LanguageModel, residual_changed
from saesteer.engine.output_score import output_scores
from saesteer.engine.perplexity import continuation_nll
from saesteer.engine.saes import Sae
from saesteer.judge.local_model import LocalModelAsker
from saesteer.methods.fit.effects import EffectRun, measured_effects
from saesteer.methods.fit.problem import Text
from saesteer.methods.fit.training import text_loss
from saesteer.settings import LocalModelJudge
from saesteer.settings.methods import EffectSettings

LAYER = 10
FULL_STOP = 4
N_NEW = 16
PREFIXES = by_id([" ".join(f"w{50 + number * 5 + place}" for place in range(5)) for number in range(32)])
N_SCORES = 16_384
WHOLE = "sweep, texts of 20 tokens"
"""Random weights hardly ever end a text, so this is the sweep whose time can be compared with a count."""


def instructions(n: int) -> list[list[int]]:
    """Chat prompts with the lengths that instructions have: most of 15 to 60 tokens."""
    lengths = np.random.default_rng(1).lognormal(np.log(20), 0.7, n).clip(3, 200).astype(int) + 9
    return [[1, *(50 + place % 500 for place in range(length - 1))] for length in lengths.tolist()]


def compared(lm: LanguageModel, sae: Sae, one: Intervention, n_concepts: int = 10, n_factors: int = 14) -> int:
    """Texts of one method in AxBench's setting (P4), a small comparison of 10 concepts: every concept's fit on 10 instructions of its own
    at 14 factors; the first `N_NEW` of 128 tokens."""
    prompts = instructions(10 * n_concepts)
    cells = [(prompt // 10, prompt, str(factor)) for prompt in range(len(prompts)) for factor in range(1, n_factors + 1)]
    rows = pl.DataFrame(cells, schema=["intervention", "prompt", "factor"], orient="row").with_row_index("row")
    rows = rows.with_columns(stream=pl.col("row").cast(pl.UInt64))
    made = steered_texts(lm, sae, LAYER, rows, [one] * n_concepts, prompts, Sampling(N_NEW, 1.0, stop=""))
    return sum(frame.height for frame in made)


def scored(lm: LanguageModel, prefixes: Sequence[str], lengths: Sequence[int]) -> int:
    """Texts of so many tokens after prefixes."""
    words = [" ".join(f"w{60 + (number * 7 + place) % 500}" for place in range(length)) for number, length in enumerate(lengths)]
    before = [prefixes[number % len(prefixes)] + " " for number in range(len(words))]
    return continuation_nll(lm, pl.DataFrame({"row": range(len(words)), "prefix": before, "text": words})).height


def judged(lm: LanguageModel, n: int = 512) -> int:
    """Questions of 128 to 160 tokens, answered with `N_NEW`."""
    asker = LocalModelAsker(lm, LocalModelJudge(kind="model", model={"path": "judge"}, max_tokens=N_NEW), "", (FULL_STOP,))
    going_on = iter([True] * N_NEW)
    lm.model._has_unfinished_sequences = lambda *_, **__: next(going_on, False)  # what generate looks up on the GPU after each token
    asked = [[1, *(50 + (number + place) % 500 for place in range(129 + number % 30))] for number in range(n)]
    return len(asker._generated(asked, 160, n))


def effects(lm: LanguageModel, sae: Sae) -> int:
    """Vectors, each on 8 prompts of 4 rollouts of 32 tokens, P2's length."""
    prompts = [[1, *range(50 + number, 60 + number)] for number in range(8)]
    settings = EffectSettings(n_vectors=64, n_held_out=2, n_rollouts=4, n_prompts=8, max_new_tokens=32)
    rows = pl.DataFrame({"vector": range(64)}, schema={"vector": pl.UInt32})
    return sum(frame.height for frame in measured_effects(EffectRun(lm, sae, LAYER, prompts, settings, 0), rows))


def trained(lm: LanguageModel, sae: Sae, n: int = 8) -> int:
    """Forward and backward passes of batches of 6 texts of 64 tokens."""
    vector = torch.zeros(lm.d_model, device=lm.device, requires_grad=True)
    text = Text([1, *range(50, 113)], 16)
    with torch.enable_grad():
        for _ in range(n):
            with residual_changed(lm, LAYER + 1, lambda residual: residual + vector.to(residual.dtype)):
                text_loss(lm, [text] * 6).backward()
    return 6 * n


def works(lm: LanguageModel, sae: Sae, shape: Shape) -> dict[str, Callable[[], int]]:
    """The kinds of work, in slices that fill batches."""
    d_in, part = shape.n_heads * shape.head_dim, torch.zeros(4, 4, shape.d_model)
    adapted = (5, 10, 15, 20)
    kinds: dict[str, Intervention] = {
        "unsteered, prompting": Nothing(),
        "vectors": Addition(torch.ones(shape.d_model), 1.0),
        "SAE codes set": ActivationEdit(torch.arange(5), torch.ones(5)),
        "LoRA": LowRankWeights(adapted, torch.zeros(4, 4, d_in), torch.zeros(4, shape.d_model, 4), 16.0),
        "LoReFT": LowRankSubspace(adapted, part, part, torch.zeros(4, 4), 5, 5),
    }
    lens = torch.zeros(N_SCORES, 20, dtype=torch.long)
    scores = {"output score": lambda: output_scores(lm, sae, LAYER, range(N_SCORES), lens, PROMPT, 10.0).height}
    factors = ("1", "2", "4", "8")
    sweep = {
        "sweep (P1)": lambda: swept(lm, sae, 32, PREFIXES, Sampling(20), factors).height,
        WHOLE: lambda: swept(lm, sae, 32, PREFIXES, Sampling(20, stop=""), factors).height,
    }
    of_kinds = {f"comparison: {name}": lambda one=one: compared(lm, sae, one) for name, one in kinds.items()}
    tuned = WeightChange({"model.layers.10.mlp.down_proj.weight": torch.zeros(shape.d_model, shape.d_mlp)})
    of_kinds["comparison, 1 concept: SFT"] = lambda: compared(lm, sae, tuned, 1, 2)
    continuations = list(PREFIXES.values())
    responses = [" ".join(f"w{token}" for token in prompt[1:]) for prompt in instructions(100)]
    lengths = np.random.default_rng(2).integers(8, 128, 1400).tolist()
    others = {
        "perplexity, sweep": lambda: scored(lm, continuations, [20] * 2048),
        "perplexity, comparison": lambda: scored(lm, responses, lengths),
        "effects (P2)": lambda: effects(lm, sae),
        "training, SSV": lambda: trained(lm, sae),
        "judge, local": lambda: judged(lm),
    }
    return scores | sweep | of_kinds | others
