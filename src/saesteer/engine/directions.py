"""The direction of what some texts have and others have not: the difference of their means (as DiffMean's, P4, arXiv 2501.17148)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.hook_points import HookPoint, readings
from saesteer.engine.models import MIN_ROWS, LanguageModel
from saesteer.engine.saes import Sae


@torch.no_grad()
def difference_of_means(
    lm: LanguageModel, hook_points: Sequence[HookPoint], having: Sequence[Sequence[int]], lacking: Sequence[Sequence[int]]
) -> list[Float[Tensor, " width"]]:
    """At each hook point the mean over all tokens of some texts, less that of others; the first token of a text, as a rule the
    beginning-of-sequence token, is left out."""
    means = [_means(lm, hook_points, texts) for texts in (having, lacking)]
    return [first - second for first, second in zip(*means, strict=True)]


def _means(lm: LanguageModel, hook_points: Sequence[HookPoint], texts: Sequence[Sequence[int]]) -> list[Tensor]:
    sums, n_tokens = [torch.zeros(()) for _ in hook_points], 0
    for start in range(0, len(texts), MIN_ROWS):
        batch = texts[start : start + MIN_ROWS]
        width = max(map(len, batch))
        ids = torch.tensor([[*text, *[text[0]] * (width - len(text))] for text in batch], device=lm.device)
        counted = torch.tensor([[0 < place < len(text) for place in range(width)] for text in batch], device=lm.device)
        for number, at in enumerate(readings(lm, ids, hook_points)):
            sums[number] = sums[number].to(lm.device) + at.value[counted].float().sum(dim=0)
        n_tokens += int(counted.sum())
    return [total / n_tokens for total in sums]


def decoder_cosines(sae: Sae, direction: Float[Tensor, " width"]) -> list[float]:
    """The cosine of each feature's decoder row with a direction."""
    cosines: list[float] = torch.nn.functional.cosine_similarity(sae.W_dec.float(), direction[None].to(sae.W_dec.device)).tolist()
    return cosines
