"""Which SAE on Neuronpedia holds a layer's features."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from saesteer.settings import Experiment, NeuronpediaExamples, SettingsError
from saesteer.sources.sae_sources import neuronpedia_source

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # also a safe folder name: no slash, no leading dot


@dataclass(frozen=True)
class Source:
    """A model and one of its sources, such as gemma-2-2b and 20-gemmascope-res-16k."""

    model: str
    source: str

    def __post_init__(self) -> None:
        for name in (self.model, self.source):
            if not _NAME.fullmatch(name):
                raise SettingsError(f"Neuronpedia source {self}: {name!r} is no name there: letters, digits, _ . and - only")

    def __str__(self) -> str:
        return f"{self.model}/{self.source}"

    @classmethod
    def parse(cls, text: str) -> "Source":
        """The source that `model/source` names; sae-lens's neuronpedia_id of an SAE is of this form."""
        model, slash, source = text.partition("/")
        if not slash or "/" in source:
            raise SettingsError(f"Neuronpedia source {text!r}: expected model/source, e.g. gemma-2-2b/20-gemmascope-res-16k")
        return cls(model, source)


def known_sources(experiment: Experiment, layers: Sequence[int]) -> dict[int, Source]:
    """Layer -> the source that max_activating_examples.source names, or else sae-lens for the release's SAE; without the layers that have
    none."""
    pattern = experiment.max_activating_examples.source if isinstance(experiment.max_activating_examples, NeuronpediaExamples) else None
    if pattern:
        return _of_pattern(pattern, layers)
    names = {layer: neuronpedia_source(experiment.saes, layer) for layer in layers}
    return {layer: Source.parse(name) for layer, name in names.items() if name}


def sources_of(experiment: Experiment, layers: Sequence[int], name: str | None = None) -> dict[int, Source]:
    """Layer -> its source: of a name with `{layer}` in it, or else the experiment's own, of which every layer must have one."""
    if name:
        return _of_pattern(name, layers)
    sources = known_sources(experiment, layers)
    if unnamed := [layer for layer in layers if layer not in sources]:
        raise SettingsError(
            f"max_activating_examples: sae-lens names no Neuronpedia source for layer {unnamed[0]}"
            f" ({experiment.saes.release or 'SAEs of no release'}): name one by --source, or set the source of"
            " max_activating_examples of kind neuronpedia, e.g. gemma-2-2b/{layer}-gemmascope-res-16k"
        )
    return sources


def _of_pattern(pattern: str, layers: Sequence[int]) -> dict[int, Source]:
    """Layer -> the source of a name with `{layer}` in it; refused where several layers would have one source."""
    try:
        names = {layer: pattern.format(layer=layer) for layer in layers}
    except (KeyError, IndexError, ValueError) as fault:
        raise SettingsError(f"Neuronpedia source {pattern!r}: braces are for {{layer}} only") from fault
    if len(set(names.values())) < len(names):
        raise SettingsError(f"Neuronpedia source {pattern!r} is the same for layers {', '.join(map(str, layers))}: write {{layer}} in it")
    return {layer: Source.parse(name) for layer, name in names.items()}
