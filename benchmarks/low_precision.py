"""How far output scores in bfloat16 and TF32 lie from float32 ones, on small random models of each family and on the shipped model.

    OMP_NUM_THREADS=1 python benchmarks/low_precision.py

writes its section of benchmarks/RESULTS.md. TF32 needs a GPU; without one its columns say so.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import torch
from measuring import command_line, load_note, publish, written_by
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the small models that the tests compare with other libraries
from engine_models import FAMILIES, model_and_sae, prompt_of

from saesteer.core.markdown import table
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel, language_model
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import TENSORS, Sae

LAYER, FACTOR = 1, 10.0


def moved(lm: LanguageModel, sae: Sae, device: str, dtype: torch.dtype) -> tuple[LanguageModel, Sae]:
    """Model and SAE on a device, in a number format."""
    tensors = {name: getattr(sae, name).to(device, dtype) for name in TENSORS}
    return language_model(copy.deepcopy(lm.model).to(device, dtype), lm.tokenizer), dataclasses.replace(sae, **tensors)


@contextmanager
def tf32() -> Iterator[None]:
    """Products of float32 numbers in TF32 within the context."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclasses.dataclass(frozen=True)
class Errors:
    """Median and largest error relative to the score (or to a hundredth of the largest score, where that is more); rank correlation."""

    median: float
    largest: float
    rho: float

    def cells(self) -> tuple[str, str, str]:
        """Three cells of the table."""
        return f"{self.median:.2%}", f"{self.largest:.1%}", f"{self.rho:.4f}"


def errors(exact: pl.Series, rounded: pl.Series) -> Errors:
    """Of the scores of a model's features."""
    relative = (exact - rounded).abs() / exact.clip(lower_bound=exact.max() / 100)
    rho = float(stats.spearmanr(exact, rounded).statistic)
    return Errors(float(relative.median()), float(relative.max()), rho)


def measured(family: str) -> tuple[int, Errors, Errors | None]:
    """How many features, the errors in bfloat16 on this machine, and those in TF32 where there is a GPU."""
    lm, sae = model_and_sae(family, LAYER)
    n = sae.meta.n_features
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[:n], 20)

    def scores(device: str, dtype: torch.dtype) -> pl.Series:
        model, encoder = moved(lm, sae, device, dtype)
        return output_scores(model, encoder, LAYER, range(n), lens, prompt_of(family), FACTOR)["output_score"]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    exact = scores(device, torch.float32)
    bfloat16 = errors(exact, scores(device, torch.bfloat16))
    if device == "cpu":
        return n, bfloat16, None
    with tf32():
        return n, bfloat16, errors(exact, scores(device, torch.float32))


def in_short(kind: str, per_model: list[Errors]) -> str:
    """The smallest and the largest of the models' numbers."""
    if not per_model:
        return f"{kind} not measured on a GPU"
    medians, rho = [errors.median for errors in per_model], min(errors.rho for errors in per_model)
    return f"{kind}: median error of a score {min(medians):.1%} to {max(medians):.1%}, Spearman {rho:.3f} or more"


def main() -> None:
    """Measure, print, write."""
    options = command_line(__doc__).parse_args()
    kinds = [f"{kind} {what}" for kind in ("bfloat16", "TF32") for what in ("median error", "largest error", "Spearman")]
    rows = {family: measured(family) for family in [*FAMILIES, "shipped"]}
    not_measured = ("not measured on a GPU", "", "")
    lines = [(family, n, *half.cells(), *(tf32.cells() if tf32 else not_measured)) for family, (n, half, tf32) in rows.items()]
    short = [in_short("bfloat16", [row[1] for row in rows.values()]), in_short("TF32", [row[2] for row in rows.values() if row[2]])]
    page = [
        *written_by("Low precision", "OMP_NUM_THREADS=1 python benchmarks/low_precision.py"),
        "",
        f"Output scores of every feature of an SAE, against float32. {load_note()}.",
        "",
        f"In short: {'; '.join(short)}.",
        "",
        table(("model", "features", *kinds), lines),
        "",
        "Errors are relative to the score, or to a hundredth of the largest score where that is more. The random models are tiny: their"
        " scores are small and close together, so their ranks are easily exchanged; the shipped one is trained.",
    ]
    publish(page, options.write)


if __name__ == "__main__":
    main()
