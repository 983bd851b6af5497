"""What came of asking for features, and the error that sums up what could not be had."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from saesteer.core.errors import SaesteerError
from saesteer.sources.neuronpedia.convert import Known


@dataclass(frozen=True)
class Failed:
    """Features about which nothing is known for now, and why."""

    features: tuple[int, ...]
    why: str


@dataclass(frozen=True)
class Outcome:
    """What one request or batch brought."""

    features: Sequence[Known] = ()
    failed: Sequence[Failed] = ()
    unsure: Sequence[int] = ()
    """Features on which the exports are silent; only the API's word is taken for what Neuronpedia does not have."""


class IncompleteDownload(SaesteerError, RuntimeError):
    """Something could not be downloaded; whatever could was handed out before."""


def incomplete(failures: Mapping[str, Sequence[Failed]]) -> IncompleteDownload:
    """The error that sums up each source's failures."""
    lines, total = [], 0
    for source, of_source in failures.items():
        by_reason: dict[str, list[int]] = defaultdict(list)
        for failed in of_source:
            by_reason[failed.why] += failed.features
        total += sum(map(len, by_reason.values()))
        lines += [f"{source}: {len(features)} ({first_of(features)}): {why}" for why, features in sorted(by_reason.items())]
    return IncompleteDownload(
        f"Neuronpedia: {total} features could not be downloaded and are not stored:\n  " + "\n  ".join(lines) + "\n"
        "What was downloaded is kept: run the same command again to fetch just these."
    )


def first_of(numbers: Iterable[int], n: int = 5) -> str:
    """The first few of some numbers, for messages."""
    ordered = sorted(numbers)
    return ", ".join(map(str, ordered[:n])) + (", ..." if len(ordered) > n else "")
