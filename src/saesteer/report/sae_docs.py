"""The SAEs that sae-lens lists, and which of them can be used here: for `saesteer saes` and the documentation.

What is said of an SAE is what `saesteer.sources.sae_sources.refusal` says of it when it is asked for.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from saesteer.settings import SettingsError
from saesteer.sources.sae_sources import SaeSource, every_source, refusal, site_of_hook

_WIDTH = re.compile(r"width_(\d+[km])|width-(2pow\d+)|-[Ww](\d+[Kk])\b|[-_](\d+x)\b|v5_(\d+k)|resid_pre_(\d+)\b")
"""How names tell the number of features; 8x is eight times the model's width."""


@dataclass(frozen=True)
class Release:
    """SAEs of one release of which the same is said."""

    name: str
    model: str
    sites: tuple[str, ...]  # as in the setting saes.site; of those that cannot be used, what they read
    widths: tuple[str, ...]  # as names tell them; none where they do not
    n: int
    neuronpedia: str | None  # of the first that has one
    n_neuronpedia: int
    form: str  # sae-lens' name of its loader
    reason: str | None  # why they cannot be used; None: they can


def releases(pattern: str = "") -> list[Release]:
    """The releases whose name, model or repository matches a regular expression, upper and lower case alike."""
    try:
        wanted = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise SettingsError(f"{pattern!r} is not a regular expression: {error}") from error
    groups: dict[tuple[str, str, str | None], list[SaeSource]] = {}
    for model, source in every_source():
        if wanted.search(f"{source.release}\n{model}\n{source.repo}"):
            reason = refusal(source)
            general = reason and re.sub(r"\.\d+\.", ".N.", reason)
            groups.setdefault((source.release, model, general), []).append(source)
    return [_release(name, model, reason, sources) for (name, model, reason), sources in groups.items()]


def _release(name: str, model: str, reason: str | None, sources: list[SaeSource]) -> Release:
    ids = [source.neuronpedia for source in sources if source.neuronpedia]
    sites = dict.fromkeys(_site(source) for source in sources)
    widths = dict.fromkeys(width for source in sources if (width := _width(source)))
    form = str(sources[0].loader)
    return Release(name, model, tuple(sites), tuple(widths), len(sources), ids[0] if ids else None, len(ids), form, reason)


def _site(source: SaeSource) -> str:
    if source.hook is None:
        return "named in its files"
    return site_of_hook(source.name, source.hook)[1] if refusal(source) is None else re.sub(r"\.\d+\.", ".N.", source.hook)


def _width(source: SaeSource) -> str | None:
    """Number of features, as far as the names tell."""
    names = "\n".join((source.id, source.folder, source.repo, source.release))
    match = _WIDTH.search(names)
    return match[match.lastindex or 0].lower() if match else None


def release_lines(found: Iterable[Release]) -> Iterator[str]:
    """A line a release, as `saesteer saes` prints it; the last one counts."""
    n_usable, n = 0, 0
    for one in found:
        parts = [f"{one.n} of {one.model} at {', '.join(one.sites)}"]
        parts += [f"width {', '.join(one.widths)}"] if one.widths else []
        parts += [f"{one.n_neuronpedia} on Neuronpedia, the first {one.neuronpedia}"] if one.neuronpedia else []
        yield f"{one.name}: {'; '.join(parts)}; {verdict(one)}"
        n_usable, n = n_usable + one.n * (one.reason is None), n + one.n
    yield f"{n_usable:,} of {n:,} SAEs can be used"


def verdict(one: Release) -> str:
    """Whether its SAEs can be used, and why not."""
    return "yes" if one.reason is None else f"no: {one.reason}"


def releases_markdown() -> str:
    """Every release, a row for each thing that is said of its SAEs."""
    rows = "".join(
        f"| `{one.name}` | {one.model} | {', '.join(one.sites)} | {', '.join(one.widths)} | {one.n} | {one.n_neuronpedia or ''} |"
        f" {verdict(one)} |\n"
        for one in releases()
    )
    return f"| release | model | place | width | SAEs | with a Neuronpedia id | can be used |\n|---|---|---|---|---|---|---|\n{rows}"
