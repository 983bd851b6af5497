"""A judge that runs here: an instruction-tuned transformers model, greedy, asked in its own chat template.

Prompts are padded on the left to a multiple of `LENGTH_STEP` tokens and batched with others of the same padded length, never below
`MIN_ROWS` rows and, where shapes matter, always as many. So a prompt's padding depends on its own length only, and its answer not on its
neighbours.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from saesteer.engine.continuation import final_ids, step_bytes
from saesteer.engine.conversation import check_conversation, rendered
from saesteer.engine.finite import check_logits, rows_named
from saesteer.engine.memory import Halving, forward_bytes, rows_that_fit
from saesteer.engine.models import MIN_ROWS, PROMPT_ALONE, LanguageModel, check_length, pad_rows, shape_matters
from saesteer.judge.answers import AnswerBook, Ask, Asker, JudgeAnswer, JudgeError, answers_fingerprint
from saesteer.settings import LocalModelJudge

ALGORITHM_VERSION = 2

LENGTH_STEP = 32
"""Prompts are padded to a multiple of this many tokens."""

MOST_ROWS = (32, 512)
"""Largest batch on a CPU and on a GPU."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalModelAsker(Asker):
    """Asks a loaded model. `weights` is a digest of its files."""

    lm: LanguageModel
    settings: LocalModelJudge
    weights: str
    ends: tuple[int, ...]
    """Tokens that end the judge's turn."""
    questions_at_once: int = 512

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What its answers depend on besides the questions: weights and number type too, since no name vouches for them."""
        settings, model = self.settings, self.settings.model
        judge = answers_fingerprint(settings.kind, model.name, settings.max_tokens, settings.seed)
        return {**judge, "weights": self.weights, "dtype": model.dtype, **model.template_values}

    def expect(self, asks: Sequence[Ask]) -> None:
        """Log how much there is to do."""
        log.info("judge %s: %d questions to ask, on %s", self.settings.model.name, len(asks), self.lm.device)

    def ask(self, asks: Sequence[Ask], book: AnswerBook) -> None:
        """Answer batch by batch, the shortest prompts first; a batch's prompts have the same padded length."""
        rows_of_length: defaultdict[int, list[tuple[Ask, list[int]]]] = defaultdict(list)
        for ask in asks:
            prompt = self._prompt(ask)
            length = -(-len(prompt) // LENGTH_STEP) * LENGTH_STEP
            check_length(self.lm, length + self.settings.max_tokens)
            rows_of_length[length].append((ask, prompt))
        halving = Halving("judge", self.lm.device)
        for length, rows in sorted(rows_of_length.items()):
            capacity = length + self.settings.max_tokens
            cache = 2 * self.lm.n_layers * self.lm.d_model * capacity * self.lm.dtype.itemsize  # at most: key heads may be fewer
            row_bytes = forward_bytes(self.lm, length) + cache + step_bytes(self.lm, capacity, self.lm.device)
            size = max(MIN_ROWS, rows_that_fit(row_bytes, self.lm.device, MOST_ROWS))

            def answers(part: slice, size: int, length: int = length, rows: list[tuple[Ask, list[int]]] = rows) -> list[JudgeAnswer]:
                with rows_named(lambda row: f"judge, question {rows[part][row][0].question.request_id}"):
                    texts = self._generated([prompt for _, prompt in rows[part]], length, size if shape_matters(self.lm) else MIN_ROWS)
                return [self._answer(ask, len(prompt), tokens) for (ask, prompt), tokens in zip(rows[part], texts, strict=True)]

            for batch in halving.over(len(rows), size, answers):
                for answer in batch:
                    book.add(answer)

    def _prompt(self, ask: Ask) -> list[int]:
        """Token ids of the question in the chat template, with every special token's name in it broken up, so that a rated text cannot end
        the user's turn."""
        special = {str(token) for token in self.lm.tokenizer.added_tokens_decoder.values() if token.special and len(str(token)) > 1}
        turns = []
        for message in ask.messages:
            content = message["content"]
            for name in sorted(special, key=lambda name: (-len(name), name)):
                content = content.replace(name, f"{name[0]} {name[1:]}")
            turns.append({**message, "content": content})
        *before, _ = self.lm.chat.messages("")
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        prompt: list[int] = rendered(self.lm.tokenizer, self.lm.chat, [*before, *turns], **options)["input_ids"]
        return prompt

    @torch.no_grad()
    def _generated(self, prompts: Sequence[list[int]], length: int, n_rows: int) -> list[list[int]]:
        """The new tokens of each row, in a batch of at least `n_rows`."""
        padding = self.lm.tokenizer.pad_token_id or 0  # masked: which token it is makes no difference
        ids = torch.tensor([[padding] * (length - len(prompt)) + prompt for prompt in prompts], device=self.lm.device)
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.lm.device)
        ends = list(self.ends) or None
        config = GenerationConfig(max_new_tokens=self.settings.max_tokens, do_sample=False, eos_token_id=ends, pad_token_id=padding)
        ids, mask = (pad_rows(part, n_rows) for part in (ids, mask))

        def checked(_ids: Tensor, logits: Tensor) -> Tensor:
            check_logits(logits, self.lm.head.weight)
            return logits

        processors = LogitsProcessorList([checked])
        output = self.lm.model.generate(input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=processors)
        new_tokens: list[list[int]] = output[: len(prompts), length:].tolist()
        return new_tokens

    def _answer(self, ask: Ask, n_prompt: int, tokens: list[int]) -> JudgeAnswer:
        """The text before the first token that ends the turn; all of it, cut off, where there is none."""
        end = next((place for place, token in enumerate(tokens) if token in self.ends), None)
        return JudgeAnswer(
            **ask.identity,
            raw=self.lm.tokenizer.decode(tokens[:end], skip_special_tokens=True),
            finish_reason="length" if end is None else "stop",
            prompt_tokens=n_prompt,
            completion_tokens=len(tokens[:end]),
            model=self.settings.model.name,
        )


def local_asker(lm: LanguageModel, settings: LocalModelJudge, weights: str) -> LocalModelAsker:
    """A loaded model as a judge. Refuses one without a chat template."""
    if not getattr(lm.tokenizer, "chat_template", None):
        raise JudgeError(f"the judge {settings.model.name} has no chat template: name an instruction-tuned model in judge.model")
    lm = replace(lm, prompt_format="chat", chat=settings.model.chat or PROMPT_ALONE)
    check_conversation(settings.model.name, lm.tokenizer, lm.chat)
    listed = lm.model.generation_config.eos_token_id
    # Greedy and nothing else: penalties and the like in the model's own configuration would come in by default.
    lm.model.generation_config = GenerationConfig(eos_token_id=lm.tokenizer.eos_token_id if listed is None else listed)
    return LocalModelAsker(lm, settings, weights, tuple(final_ids(lm)))
