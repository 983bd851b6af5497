"""Training texts as the model reads them."""

import logging
from itertools import takewhile

import polars as pl

from saesteer.core.tokens import with_bos
from saesteer.engine.models import LanguageModel, prompt_token_ids
from saesteer.methods.fit.problem import TrainingText
from saesteer.settings.methods import P4_LONGEST_TEXT

ALGORITHM_VERSION = 1

log = logging.getLogger(__name__)


def training_texts(
    texts: pl.DataFrame, lm: LanguageModel, longest: int = P4_LONGEST_TEXT
) -> tuple[tuple[TrainingText, ...], tuple[TrainingText, ...]]:
    """The positive and the negative texts of one concept (its CONCEPT_TEXTS rows), in the order of their numbers.

    A model that continues reads input, a space and output as one text, whose tokens that end within the input are its context; one that
    answers reads the input as the user's turn and the output as its own. Outputs end after `longest` tokens or at the model's last
    position.
    """
    ordered = texts.sort("number")
    positive, negative = (
        tuple(_text(lm, row, longest) for row in ordered.filter(positive=side).iter_rows(named=True)) for side in (True, False)
    )
    return positive, negative


def n_prefix_tokens(lm: LanguageModel) -> int:
    """How many tokens all prompts begin with: the first, which is the beginning-of-sequence token where there is one, and what a chat
    template puts before the user's words (P4's program, which compares two prompts as here)."""
    if lm.prompt_format == "plain":
        return 1
    prompts = (prompt_token_ids(lm, text) for text in ("a", "b"))
    return max(1, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*prompts, strict=False))))


def _text(lm: LanguageModel, row: dict[str, object], longest: int) -> TrainingText:
    before, output = str(row["input"]), str(row["output"])
    if lm.prompt_format == "chat":
        context = prompt_token_ids(lm, before)
        whole = TrainingText(context + lm.tokenizer(output, add_special_tokens=False)["input_ids"], len(context))
    else:
        whole = _continuation(lm, before, output)
    text = TrainingText(whole.ids[: min(whole.n_context + longest, lm.n_positions)], whole.n_context)
    if text.n_output <= 0:
        kind = "positive" if row["positive"] else "negative"
        raise ValueError(
            f"{kind} text {row['number']} of concept_id {row['concept_id']}: no token of its output is left after the {whole.n_context} of"
            f" its input ({lm.name} takes {lm.n_positions}); shorten the input or give an output"
        )
    if len(text.ids) < len(whole.ids):
        log.info("concept_id %s: a text of %d tokens is cut after %d", row["concept_id"], len(whole.ids), len(text.ids))
    return text


def _continuation(lm: LanguageModel, before: str, output: str) -> TrainingText:
    encoded = lm.tokenizer(f"{before} {output}" if before else output, return_offsets_mapping=True)
    ids = with_bos(encoded["input_ids"], lm.bos, lm.tokenizer.bos_token_id)
    within = takewhile(lambda offset: offset[1] <= len(before), encoded["offset_mapping"])
    n_context = len(ids) - len(encoded["input_ids"]) + sum(1 for _ in within)
    return TrainingText(ids, max(n_context, 1))  # nothing predicts the first token, so it is context in any case
