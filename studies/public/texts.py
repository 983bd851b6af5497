"""Texts that a public model writes, unsteered: at temperature 1 from the whole vocabulary, each from its own stream of random numbers.
Those ship that are English prose without markup, loops and repeats of an earlier text, cut at the end of their last sentence."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from tqdm import tqdm

from saesteer.analysis.acceptability import WORD, distinct_bigram_share, function_word_share
from saesteer.core.counter_rng import streams
from saesteer.core.files import text_id, write_atomically
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

LEAST_WORDS = 15
LEAST_FUNCTION_WORDS = 0.25
"""Share of English function words; texts in other languages and lists of names have less."""
LEAST_DISTINCT_PAIRS = 0.8
"""Different pairs of neighbouring words over all; loops have less."""
MOST_DIGITS = 0.05
SHINGLE, MOST_SEEN = 5, 0.3
"""A text repeats earlier ones where more than this share of its runs of five words stands in them."""

_MARKUP = re.compile(r"[<>{}\[\]|\\_=#*~^@$]|https?:|www\.|\.com\b|::|->|//|\(\)|\t")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")
_LATIN = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ]")
_OBSCENE = re.compile(
    r"\b(?:fuck|shit|porn|nude|naked|sex|rape|whore|slut|cunt|bitch|nigg|erotic|penis|vagin|genital|breasts)", re.IGNORECASE
)

REASONS = ("no whole sentence", "few words", "markup", "other scripts", "digits", "other languages and lists", "loops", "obscene")


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


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence, white space single; "" where none ends."""
    single = re.sub(r"\s+", " ", text).strip()
    ends = [match.end() for match in _SENTENCE_END.finditer(single)]
    return single[: ends[-1]] if ends else ""


def fault(text: str) -> str | None:
    """Which of `REASONS` keeps a text of whole sentences out, the first that holds."""
    words = [word.lower() for word in WORD.findall(text)]
    letters = [character for character in text if character.isalpha()]
    faults = {
        "no whole sentence": not text,
        "few words": len(words) < LEAST_WORDS,
        "markup": bool(_MARKUP.search(text)),
        "other scripts": any(not _LATIN.match(letter) for letter in letters),
        "digits": sum(character.isdigit() for character in text) > MOST_DIGITS * len(text),
        "other languages and lists": (function_word_share(words) or 0.0) < LEAST_FUNCTION_WORDS,
        "loops": distinct_bigram_share(words) < LEAST_DISTINCT_PAIRS or max(Counter(words).values(), default=0) > 0.2 * len(words),
        "obscene": bool(_OBSCENE.search(text)),
    }
    return next((reason for reason in REASONS if faults[reason]), None)


def cleaned(sampled: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
    """text_id, text and concept of the rows (opening, text, concept) that ship, in order; and how many were left out for which reason."""
    shipped: dict[str, tuple[str, str | None]] = {}
    seen: set[str] = set()
    left_out: Counter[str] = Counter()
    for opening, continuation, concept in sampled.select("opening", "text", "concept").iter_rows():
        text = whole_sentences(opening + continuation)
        words = [word.lower() for word in WORD.findall(text)]
        shingles = {" ".join(words[start : start + SHINGLE]) for start in range(len(words) - SHINGLE + 1)}
        if reason := fault(text):
            left_out[reason] += 1
        elif text_id(text) in shipped or sum(shingle in seen for shingle in shingles) > MOST_SEEN * len(shingles):
            left_out["repeats"] += 1
        else:
            shipped[text_id(text)] = text, concept
        seen |= shingles
    rows = [(key, *shipped[key]) for key in shipped]
    return pl.DataFrame(rows, {"text_id": pl.String, "text": pl.String, "concept": pl.String}, orient="row"), left_out
