"""Texts that a public model writes, unsteered: at temperature 1 from the whole vocabulary, each from its own stream of random numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from tqdm import tqdm

from saesteer.core.counter_rng import streams
from saesteer.core.files import write_atomically
from saesteer.engine.continuation import Sampling
from saesteer.engine.generate import steered_texts
from saesteer.engine.interventions import Nothing
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae, SaeMeta

HERE = Path(__file__).parent
OPENINGS = (HERE / "openings.txt").read_text(encoding="utf-8").splitlines()
"""Beginnings of texts: short, in plain English, on no subject in particular."""
SUBJECTS = (HERE / "subjects.txt").read_text(encoding="utf-8").splitlines()
REQUESTS = ("Write a short paragraph about {}.", "Tell me something about {}.", "Write a few sentences of a story about {}.")
"""What a model that answers is asked about every subject: everyday ones of many kinds, so that features on any have active texts."""

SAMPLING = Sampling(max_new_tokens=64, temperature=1.0, top_k=0, stop="")
ROWS_OF_A_PART = 512


@dataclass(frozen=True)
class Prompt:
    """What a text is sampled from."""

    text: str  # as the model reads it, special tokens included
    opening: str  # the part of it that belongs to the text; "" where the text is an answer
    subject: str | None = None  # what an answer was asked about


def prompts(bos: str, answers: bool) -> list[Prompt]:
    """The bare first token and every opening behind it; of a model that answers, also every request about every subject, as its chat
    template has them, and openings behind its separator of documents."""
    if not answers:
        return [Prompt(bos, "")] * (len(OPENINGS) // 4) + [Prompt(bos + opening, opening) for opening in OPENINGS]
    return requests(SUBJECTS) + [Prompt("<|endoftext|>" + opening, opening) for opening in OPENINGS for _ in range(2)]


def requests(subjects: Sequence[str]) -> list[Prompt]:
    """Every request about every subject, as the chat template of a model that answers has them."""
    return [
        Prompt(f"<|im_start|>user\n{request.format(subject)}<|im_end|>\n<|im_start|>assistant\n", "", subject)
        for subject in subjects
        for request in REQUESTS
    ]


def sampled_parts(
    lm: LanguageModel, choices: Sequence[Prompt], n: int, seed: int, folder: Path, sampling: Sampling = SAMPLING
) -> Iterator[pl.DataFrame]:
    """row, prompt, opening, text and token ids (of the continuation alone) of rows 0 to n - 1, the prompts in turn; each part of 512 rows
    is a file in `folder`, and those that are there are read."""
    for start in tqdm(range(0, n, ROWS_OF_A_PART), desc=f"texts of {lm.name}", unit="part"):
        file = folder / f"rows_{start:06d}.parquet"
        if not file.exists():
            write_atomically(file, _sampled(lm, choices, range(start, min(start + ROWS_OF_A_PART, n)), seed, sampling).write_parquet)
        yield pl.read_parquet(file)


def _sampled(lm: LanguageModel, choices: Sequence[Prompt], numbers: range, seed: int, sampling: Sampling) -> pl.DataFrame:
    chosen = [choices[number % len(choices)] for number in numbers]
    used = list(dict.fromkeys(chosen))
    ids: list[list[int]] = lm.tokenizer([prompt.text for prompt in used], add_special_tokens=False)["input_ids"]
    rows = pl.DataFrame(
        {
            "row": list(numbers),
            "intervention": [0] * len(chosen),
            "prompt": [used.index(prompt) for prompt in chosen],
            "factor": ["0"] * len(chosen),
            "stream": streams(seed, np.array(numbers)),
        },
        schema_overrides={"row": pl.UInt32},
    )
    texts = pl.concat(steered_texts(lm, _no_sae(lm.d_model), 0, rows, [Nothing()], ids, sampling)).sort("row")
    of_row = pl.DataFrame({"row": rows["row"], "prompt": [p.text for p in chosen], "opening": [p.opening for p in chosen]})
    return of_row.join(texts.select("row", "text", "token_ids"), on="row", validate="1:1")


def _no_sae(d_model: int) -> Sae:
    """What the engine is given where nothing is steered."""
    meta = SaeMeta("none", "", 0, "standard", "resid_post", False, 0, d_model, 1, "")
    rows, one = torch.zeros(d_model, 1), torch.zeros(1)
    return Sae(rows, one, one, rows.T, torch.zeros(d_model), meta)
