"""Names of features by sentence embeddings: of a vocabulary of concepts, the one whose vector is nearest to what is shown of a feature.

Some names are near to all texts: from each cosine the name's mean cosine with the other names is taken off. The names are those of
concepts.txt and the concepts that the experiment describes. A text is told from others by a name alone in the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from saesteer.analysis.acceptability import WORD
from saesteer.analysis.label_evidence import NOTHING, Evidence, Label, Namer
from saesteer.judge.rate_embedding import Embed, concept_of

ALGORITHM_VERSION = 1

NEAREST = 0.05
"""A feature of a name is active in a text where the name is among this share of all names, those nearest to the text."""


def vocabulary(described: Mapping[str, Sequence[str]]) -> list[str]:
    """The names that features can have, described ones first."""
    shipped = Path(__file__).with_name("concepts.txt").read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys([*described, *shipped]))


@dataclass(frozen=True)
class NearestNamer(Namer):
    """Names by an embedding model."""

    embed: Embed
    model: str
    described: Mapping[str, Sequence[str]]
    at_once: int = 512

    @cached_property
    def names_known(self) -> list[str]:
        """All names."""
        return vocabulary(self.described)

    @cached_property
    def _directions(self) -> Float[np.ndarray, "name width"]:
        return np.stack([concept_of(name, self.described.get(name, ()), self.embed).direction for name in self.names_known])

    @cached_property
    def _usual(self) -> Float[np.ndarray, " name"]:
        """Each name's mean cosine with the others."""
        cosines = self._directions @ self._directions.T
        return (cosines.sum(1) - 1) / max(1, len(cosines) - 1)

    def _nearness(self, texts: Sequence[str]) -> Float[np.ndarray, "text name"]:
        vectors = self.embed(texts).astype(np.float64)
        cosines = [(self._directions * vector).sum(-1) for vector in vectors]
        return np.array(cosines).reshape(len(texts), len(self._directions)) - self._usual

    def nearest(self, texts: Sequence[str]) -> list[str]:
        """The name nearest to each text."""
        return [self.names_known[place] for place in self._nearness(texts).argmax(1)]

    def names(self, features: Sequence[Evidence]) -> list[Label]:
        return [self._label(one) for one in features]

    def _label(self, one: Evidence) -> Label:
        parts = [self._nearness(texts).mean(0) for texts in (one.unmarked, [" ".join(one.tokens)] if one.tokens else []) if texts]
        if not parts:
            return Label(None, reason=NOTHING)
        return Label(self.names_known[int(np.argmax(sum(parts)))], self.model)

    def is_active(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """None where the text has no word."""
        most, answers = max(1, int(NEAREST * len(self.names_known))), list[bool | None]()
        for name, text in pairs:
            nearness = self._nearness([text])[0]
            at_least_as_near = int((nearness >= nearness[self.names_known.index(name)]).sum())
            answers.append(at_least_as_near <= most if WORD.search(text) else None)
        return answers
