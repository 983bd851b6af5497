"""A shipped world's judge as the namer of features, a stand-in for a language model: it knows its topics and no other name.

A feature's name is the topic that the judge rates highest on what is shown of the feature. Told a topic, the judge says that the feature is
active where it rates the topic above 0. This tries what is around a namer; how well a language model names, it does not tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from saesteer.analysis.label_evidence import NOTHING, Evidence, Label, Namer
from saesteer.world.judges import WorldJudge

ALGORITHM_VERSION = 1

NO_TOPIC = "no topic stands out"


@dataclass(frozen=True)
class WorldNamer(Namer):
    """Names by a world's judge, which is called oracle."""

    judge: WorldJudge
    topics: Sequence[str]
    at_once: int = 4096

    def names(self, features: Sequence[Evidence]) -> list[Label]:
        return [self._label(one) for one in features]

    def _label(self, one: Evidence) -> Label:
        if not (one.shown or one.tokens):
            return Label(None, reason=NOTHING)
        examples = self.judge.read(one.unmarked)
        tokens = self.judge.read([" ".join(one.tokens)] if one.tokens else [])
        by_topic = [self._mean(examples, topic) + self._mean(tokens, topic) for topic in range(len(self.topics))]
        best = max(by_topic)
        return Label(self.topics[by_topic.index(best)], "oracle") if by_topic.count(best) == 1 else Label(None, reason=NO_TOPIC)

    def _mean(self, texts: Sequence[Sequence[int]], topic: int) -> float:
        """The mean rating of a topic, 0 to 2; a text without content counts as 0."""
        return sum(self.judge.concept(text, topic) or 0 for text in texts) / max(1, len(texts))

    def is_active(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """None where there is nothing to rate."""
        texts = self.judge.read([text for _, text in pairs])
        ratings = [self.judge.concept(text, self.topics.index(name)) for (name, _), text in zip(pairs, texts, strict=True)]
        return [None if rating is None else rating > 0 for rating in ratings]
