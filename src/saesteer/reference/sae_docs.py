"""The SAEs that sae-lens lists, and which of them can be used here: for `saesteer saes` and the documentation.

What is said of an SAE is what `saesteer.sources.sae_sources.refusal` says of it when it is asked for.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from saesteer.core.markdown import table
from saesteer.settings import SettingsError
from saesteer.sources.sae_sources import SaeSource, every_source, layer_and_hook_point, refusal

_WIDTH = re.compile(r"width_(\d+[km])|width-(2pow\d+)|-[Ww](\d+[Kk])\b|[-_](\d+x)\b|v5_(\d+k)|resid_pre_(\d+)\b")
"""How names tell the number of features; 8x is eight times the model's width."""


@dataclass(frozen=True)
class Release:
    """SAEs of one release of which the same is said."""

    name: str
    model: str
    hook_points: tuple[str, ...]  # as in the setting saes.hook_point; of those that cannot be used, what they read
    widths: tuple[str, ...]  # as names tell them; none where they do not
    n: int
    neuronpedia: str | None  # of the first that has one
    n_neuronpedia: int
    form: str  # sae-lens' name of its loader
    reason: str | None  # why they cannot be used; None: they can


@cache
def releases(pattern: str = "") -> tuple[Release, ...]:
    """The releases whose name, model or repository matches a regular expression, upper and lower case alike."""
    try:
        expression = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise SettingsError(f"{pattern!r} is not a regular expression: {error}") from error
    groups: dict[tuple[str, str, str | None], list[SaeSource]] = {}
    for model, source in every_source():
        if expression.search(f"{source.release}\n{model}\n{source.repo}"):
            reason = refusal(source)
            general = reason and re.sub(r"\.\d+\.", ".N.", reason)
            groups.setdefault((source.release, model, general), []).append(source)
    return tuple(_release(name, model, reason, sources) for (name, model, reason), sources in groups.items())


def _release(name: str, model: str, reason: str | None, sources: list[SaeSource]) -> Release:
    ids = [source.neuronpedia for source in sources if source.neuronpedia]
    hook_points = dict.fromkeys(map(_hook_point, sources))
    names = (_WIDTH.search("\n".join((source.id, source.folder, source.repo, source.release))) for source in sources)
    widths = dict.fromkeys(match[match.lastindex or 0].lower() for match in names if match)
    form = str(sources[0].loader)
    return Release(name, model, tuple(hook_points), tuple(widths), len(sources), ids[0] if ids else None, len(ids), form, reason)


def _hook_point(source: SaeSource) -> str:
    if source.hook is None:
        return "named in its files"
    return layer_and_hook_point(source.name, source.hook)[1] if refusal(source) is None else re.sub(r"\.\d+\.", ".N.", source.hook)


def release_lines(listed: Sequence[Release]) -> Iterator[str]:
    """A line a release, as `saesteer saes` prints it; the last one counts."""
    for release in listed:
        parts = [f"{release.n} of {release.model} at {', '.join(release.hook_points)}"]
        parts += [f"width {', '.join(release.widths)}"] if release.widths else []
        parts += [f"{release.n_neuronpedia} on Neuronpedia, the first {release.neuronpedia}"] if release.neuronpedia else []
        yield f"{release.name}: {'; '.join(parts)}; {verdict(release)}"
    n_usable = sum(release.n for release in listed if release.reason is None)
    yield f"{n_usable:,} of {sum(release.n for release in listed):,} SAEs can be used"


def verdict(release: Release) -> str:
    """Whether its SAEs can be used, and why not."""
    return "yes" if release.reason is None else f"no: {release.reason}"


def releases_markdown() -> str:
    """Every release, a row for each thing that is said of its SAEs."""
    header = ("release", "model", "hook point", "width", "SAEs", "with a Neuronpedia id", "can be used")
    rows = (
        (f"`{row.name}`", row.model, ", ".join(row.hook_points), ", ".join(row.widths), row.n, row.n_neuronpedia or "", verdict(row))
        for row in releases()
    )
    return f"{table(header, rows)}\n"
