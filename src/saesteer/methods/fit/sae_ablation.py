"""SAE feature by causal ablation: the one whose removal raises the loss on the concept's texts most.

Removing feature f takes its activation times W_dec[f] off the residual at every token of the texts' outputs (contexts left out, as
wherever activations are read; P4, arXiv 2501.17148); the SAE's error stays. The rise of the mean loss per token is measured with the model
as it then is, positive texts less negative ones. An alternative that reviewers asked for; a row of a forward for each text that a feature
fires in, so only the best detectors are tried.
"""

import polars as pl
import torch
from jaxtyping import Float64
from torch import Tensor

from saesteer.engine.head import rows_of_logits, token_nll
from saesteer.engine.hook_points import hidden_after, reading
from saesteer.engine.interventions import Addition
from saesteer.engine.models import MIN_ROWS, fewest_texts, pad_rows
from saesteer.engine.saes import encode_some, written_size
from saesteer.methods.fit.problem import Problem, TrainingText, output_mask, padded_ids, text_batches
from saesteer.methods.fit.sae_features import addition, best, ranked, with_auroc

N_CANDIDATES = 32
"""Features tried: those of highest AUROC on the training texts."""


@torch.no_grad()
def measured_rise(problem: Problem, texts: tuple[TrainingText, ...], features: list[int]) -> Float64[Tensor, " feature"]:
    """By how much removing each of some features from the texts raises their mean loss per token (nats)."""
    summed = torch.stack([_rises(problem, batch, features) for batch in text_batches(texts)]).sum(dim=0)
    return summed / sum(text.n_output for text in texts)


def _rises(problem: Problem, texts: tuple[TrainingText, ...], features: list[int]) -> Float64[Tensor, " feature"]:
    """Rise of the summed loss of a batch of texts by removing each of some features: the model above the SAE's hook point, `MIN_ROWS` texts
    with a feature removed in a forward."""
    lm, ids = problem.lm, padded_ids(problem.lm, texts)
    outputs = output_mask(texts, lm.device)
    at_hook_point = reading(lm, ids, problem.hook_point)  # [text seq width]
    activations = encode_some(problem.sae, at_hook_point.read, features) * outputs[:, :, None]  # [text seq feature]
    directions, size = problem.sae.W_dec[features], written_size(problem.sae.meta, at_hook_point.read)

    def losses_of(value: Tensor, rows: Tensor) -> Float64[Tensor, " row"]:
        """Sum over each text's output of -log p(token | what is before it), in nats, when this value lies at the hook point."""
        hidden = hidden_after(lm, problem.hook_point.place, value, None if at_hook_point.past is None else at_hook_point.past[rows])
        row, position = outputs[rows].nonzero(as_tuple=True)
        per_position = torch.zeros(ids[rows].shape, dtype=torch.float64, device=lm.device)
        per_position[row, position] = token_nll(lm, hidden[row, position - 1], ids[rows][row, position], rows_of_logits(lm))
        return per_position.sum(dim=1)

    least = fewest_texts(lm, ids.shape[1])
    every = pad_rows(torch.arange(len(texts), device=lm.device), least)
    unchanged = losses_of(at_hook_point.value[every], every)
    # Only where it fires: removing what is not there changes nothing.
    fired_feature, fired_text = (activations.amax(dim=1) > 0).T.nonzero(as_tuple=True)
    rise = torch.zeros(len(features), len(texts), dtype=torch.float64, device=lm.device)
    for start in range(0, len(fired_text), MIN_ROWS):
        feature, text = fired_feature[start : start + MIN_ROWS], fired_text[start : start + MIN_ROWS]
        written = (activations[text, :, feature] * size[text])[:, :, None] * directions[feature][:, None]
        losses = losses_of(pad_rows(at_hook_point.value[text] - written.to(at_hook_point.value.dtype), least), pad_rows(text, least))
        rise[feature, text] = losses[: len(text)] - unchanged[text]
    return rise.sum(dim=1).cpu()


def fit(problem: Problem) -> Addition:
    """The feature of largest measured rise, positive texts less negative ones, among the `N_CANDIDATES` best detectors."""
    rows = ranked(with_auroc(problem), "auroc").head(N_CANDIDATES)
    features = rows["feature"].to_list()
    rise = measured_rise(problem, problem.positive, features) - measured_rise(problem, problem.negative, features)
    rows = rows.with_columns(pl.Series("rise", rise.numpy())).filter(pl.col("rise") > 0)
    return addition(problem, best(rows, "rise", "no feature's removal raises the loss on positive texts more than on negative ones"))
