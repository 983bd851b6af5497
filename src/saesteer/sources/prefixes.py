"""The neutral prefixes (of a model that answers: instructions) that generations go on from."""

from dataclasses import dataclass
from pathlib import Path

from saesteer.core.files import text_id
from saesteer.settings import Comparison, Experiment, MethodSettings, Scores, SettingsError, TopicTexts
from saesteer.sources.encoding import text_of
from saesteer.sources.published import instructions, literal_strings


@dataclass(frozen=True)
class PromptSource:
    """Where the prefixes of a sweep, or the prompts of a comparison, come from, and how many of them are used."""

    file: Path | None  # one's own
    published: str | None  # instead: key of a published list
    n: int
    key: str  # that names the file, for messages


def prompt_source(experiment: Experiment) -> PromptSource:
    """Where an experiment's prompts come from; refused where nothing is generated."""
    if isinstance(experiment, Scores):
        raise SettingsError("an experiment of kind scores has no prompts to generate texts from: name one of kind sweep or comparison")
    if isinstance(experiment, Comparison):
        compared = experiment.methods
        return PromptSource(compared.prompts, compared.published_prompts, compared.n_prompts, "methods.prompts")
    sweep = experiment.sweep
    return PromptSource(sweep.prefixes, sweep.published_prefixes, sweep.n_prefixes, "sweep.prefixes")


def read_prefixes(path: Path, n: int) -> dict[str, str]:
    """The first n of a file: prefix_id -> prefix, in the file's order.

    A file of one's own has one a line; published ones are a program that assigns a list to `prefixes` (P1's) or a list of instructions in
    JSON (AlpacaEval's).
    """
    lines = _lines(path)
    if len(lines) < n:
        raise SettingsError(f"{path} has {len(lines)} prefixes, but n_prefixes (of methods: n_prompts) asks for {n}: lower it or add lines")
    return {text_id(line): line for line in lines[:n]}


def unused_prefixes(path: Path, n: int) -> dict[str, str]:
    """The prefixes of a file after the first n, as `read_prefixes`."""
    return {text_id(line): line for line in _lines(path)[n:]}


def _lines(path: Path) -> list[str]:
    """All of a file."""
    if path.suffix == ".py":
        lines = literal_strings(path, "prefixes")
    elif path.suffix == ".json":
        lines = instructions(path)
    else:
        lines = text_of(path).splitlines()
        if empty := [number for number, line in enumerate(lines, start=1) if not line.strip()]:
            raise SettingsError(f"{path}: line {empty[0]} is empty; one prefix a line")
    repeated = [line for number, line in enumerate(lines) if line in lines[:number]]
    if repeated:
        raise SettingsError(f"{path}: {repeated[0]!r} stands twice; one prefix a line")
    return lines


def effect_prompts(compared: MethodSettings) -> list[str]:
    """The prompts that effects are measured on, none of those that methods are judged on: neutral prefixes, and "" for the
    beginning-of-sequence token alone, three times as in P2 (arXiv 2411.02193, section 3) or as often as there is room for."""
    n_alone = min(3, compared.effects.n_prompts)
    return ["" for _ in range(n_alone)] + _unjudged(compared.effects.prompts, compared)[: compared.effects.n_prompts - n_alone]


def training_openers(compared: MethodSettings) -> list[str]:
    """The neutral openers of training texts that are made here: those of the file that are no prompts."""
    return _unjudged(compared.concepts.openers, compared) if isinstance(compared.concepts, TopicTexts) else []


def _unjudged(path: Path, compared: MethodSettings) -> list[str]:
    """The lines of a file that are no prompts of the comparison, where those are a file of one's own."""
    judged = prompts_of(compared)
    return [line for line in text_of(path).splitlines() if line.strip() and line not in judged]


def prompts_of(compared: MethodSettings) -> set[str]:
    """The prompts of the comparison, where those are a file of one's own."""
    return set(read_prefixes(compared.prompts, compared.n_prompts).values()) if compared.prompts else set()
