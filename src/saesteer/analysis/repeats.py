"""Texts that say on one prompt what the same candidate said on others: a sentence learnt by heart is not steering, so they score 0.

No judge that reads one text at a time can see this, a language model no more than a shipped world's. So repeats are counted wherever
ratings become scores of texts, among the prompts that are scored together, and never where a single rating is made. Scores that papers make
of mean ratings (methods.compare.protocol) count all texts, as theirs do.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import polars as pl

SHARED = 0.5
"""Share of the distinct pairs of successive words of two texts, together, that both have, from which they repeat one another. Of ten
sentences on one topic of the shipped grammar 2 % have such a neighbour."""
OFTEN = 0.2
"""Share of the other prompts' texts that repeat a text, from which it counts as learnt by heart. By chance two texts may be alike, the
sooner the more there are: a share does not grow with their number."""
_WORD = re.compile(r"\w+")


def without_repeats(texts: pl.DataFrame, of: Sequence[str], halves: Mapping[str, int]) -> pl.DataFrame:
    """Rows (prefix_id, text, judge_score and the columns `of`) with a judge_score of 0 where there is a score and OFTEN or more of
    the texts of other prompts of the same half with the same values in `of` repeat the text, before it or after."""
    half = pl.col("prefix_id").replace_strict(dict(halves), default=None, return_dtype=pl.Int64)
    rows = texts.with_row_index("row").with_columns(half=half)
    groups = rows.filter((pl.col("judge_score") > 0).any().over(*of, "half")).group_by(*of, "half").agg("row", "prefix_id", "text")
    pairs = {text: _pairs(text) for text in groups["text"].explode().unique().drop_nulls()}
    repeats: list[int] = []
    for numbers, prompts, said in groups.select("row", "prefix_id", "text").iter_rows():
        shown = [(number, prompt, pairs[text]) for number, prompt, text in zip(numbers, prompts, said, strict=True) if text is not None]
        n_repeating, n_of_prompt = Counter[int](), Counter(prompt for _, prompt, _ in shown)
        for (number, prompt, first), (other, other_prompt, second) in combinations(shown, 2):
            if prompt != other_prompt and first and len(first & second) >= SHARED * len(first | second):
                n_repeating.update((number, other))
        repeats += [number for number, prompt, _ in shown if n_repeating[number] >= OFTEN * (len(shown) - n_of_prompt[prompt]) > 0]
    zero = pl.col("row").is_in(sorted(repeats)) & pl.col("judge_score").is_not_null()
    return rows.with_columns(judge_score=pl.when(zero).then(0.0).otherwise("judge_score")).drop("row", "half")


def _pairs(text: str) -> frozenset[tuple[str, ...]]:
    """Its distinct pairs of successive words; of a single word that word."""
    words = _WORD.findall(text.lower())
    return frozenset(pairwise(words)) if len(words) > 1 else frozenset((word,) for word in words)
