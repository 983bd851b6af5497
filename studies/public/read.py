"""The largest activations of some features, as a page to be read."""

import numpy as np
import torch
from jaxtyping import BFloat16
from torch import Tensor

from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae, encode
from studies.public.activations import Rows

N_FEATURES, N_EXAMPLES = 10, 10
AROUND = 12
"""Tokens shown on each side of the largest."""


@torch.no_grad()
def page(lm: LanguageModel, sae: Sae, rows: Rows, x: BFloat16[Tensor, "token d_in"], seed: int) -> str:
    """N_FEATURES features drawn at random, each with the texts in which it is most active. x: residuals at the used tokens of the rows."""
    features = np.sort(np.random.default_rng([seed, sae.meta.layer]).permutation(sae.meta.n_features)[:N_FEATURES])
    values = torch.cat([encode(sae, part.float())[:, features] for part in x.split(8192)])
    row, place = map(torch.from_numpy, np.nonzero(rows.used))
    parts = []
    for number, feature in enumerate(features.tolist()):
        seen: set[int] = set()
        lines = [f"== {sae.meta.layer}/{feature}: active at {float((values[:, number] > 0).double().mean()):.3%} of tokens"]
        for token in values[:, number].argsort(descending=True).tolist():
            text, at = int(row[token]), int(place[token])
            if len(seen) == N_EXAMPLES or values[token, number] <= 0:
                break
            if text not in seen:
                seen.add(text)
                lines.append(f"{float(values[token, number]):8.1f}  {_shown(lm, rows.ids[text], int(rows.used[text].sum()) + 1, at)}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _shown(lm: LanguageModel, ids: np.ndarray, length: int, at: int) -> str:
    before, after = ids[max(1, at - AROUND) : at], ids[at + 1 : min(length, at + AROUND)]
    decode = lm.tokenizer.decode
    return " ".join(f"{decode(before)}«{decode(ids[at : at + 1])}»{decode(after)}".split())
