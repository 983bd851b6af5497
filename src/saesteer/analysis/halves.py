"""The split of prompts in two halves, one of which chooses a factor while the other reports."""

from collections.abc import Iterable

ALGORITHM_VERSION = 1


def split_halves(prefix_ids: Iterable[str], factor_choice: str = "held_out") -> dict[str, int]:
    """prefix_id -> half, of prompts in the order of their file.

    held_out: every other prompt, so that more prompts leave the others in their half. first_half: the first half (one more if their number
    is odd) and the rest, which is P4's split (arXiv 2501.17148: its first five choose, its last five report). same_texts: one.
    """
    ids = list(prefix_ids)
    numbers = {
        "held_out": [place % 2 for place in range(len(ids))],
        "first_half": [int(place >= (len(ids) + 1) // 2) for place in range(len(ids))],
        "same_texts": [0] * len(ids),
    }
    return dict(zip(ids, numbers[factor_choice], strict=True))
