"""The kinds of judges: what the ratings and the names of features that each gives depend on, how it gives them, what it refuses, and what
it costs.

A new kind is its settings (settings/steps.py) and a class here, beside the module that holds its formula.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from saesteer.core.errors import did_you_mean
from saesteer.core.files import value_digest
from saesteer.core.texts import TEXT_KEYS
from saesteer.run import Run
from saesteer.settings import (
    Comparison,
    EmbeddingJudge,
    Endpoint,
    EndpointJudge,
    Experiment,
    GivenConcept,
    LocalModelJudge,
    NamedConcepts,
    OracleJudge,
    Scores,
    SettingsError,
    Steering,
)
from saesteer.sources.embedding_model import text_pooling
from saesteer.sources.prefixes import prompt_source
from saesteer.steps.step import values_of

if TYPE_CHECKING:
    from saesteer.analysis.label_evidence import Namer
    from saesteer.judge.answers import Asker
    from saesteer.judge.nearest import NearestNamer


@dataclass(frozen=True)
class Rated:
    """Texts to be rated, and what a judge may read of them."""

    texts: pl.DataFrame
    """GENERATIONS keys, text, reason and `concept`."""
    prompts: Mapping[str, str]
    """By prefix_id; instructions where the model answers."""
    losses: pl.DataFrame | None = None
    """PERPLEXITY rows of the texts and, if these are there, of unsteered ones."""
    unsteered: pl.DataFrame | None = None
    """GENERATIONS keys and text of unsteered texts with the same layers and targets."""
    excerpts: Callable[[int], Mapping[str, Mapping[str, Sequence[str]]]] = lambda layer: {}
    """Layer -> target -> concept -> excerpts that describe the concept in place of the judge's settings."""


@dataclass(frozen=True)
class JudgeKind(ABC):
    """A judge of an experiment, of one kind."""

    experiment: Steering
    settings: Any

    pins: ClassVar[tuple[str, ...]] = ()
    """Pins that ratings and names depend on."""
    further_pins: ClassVar[tuple[str, ...]] = ()
    """Pins that ratings alone depend on besides."""
    reads_tokens: ClassVar[bool] = False
    """Whether ratings need the steered model's tokenizer."""
    reads_losses: ClassVar[bool] = False
    """Whether ratings depend on the texts' losses."""
    beside_unsteered: ClassVar[bool] = False
    """Whether ratings depend on the unsteered texts with the same layer and target."""
    runs_model: ClassVar[bool] = False
    """Whether a model runs on this machine."""
    rating_modules: ClassVar[tuple[str, ...]]
    naming_modules: ClassVar[tuple[str, ...]]

    @property
    def endpoint(self) -> Endpoint | None:
        """The address that is asked, and may be paid for."""
        return None

    @property
    def n_prompts(self) -> int:
        """How many of the experiment's prompts, from the top, have their texts rated."""
        return prompt_source(self.experiment).n

    def rating_values(self) -> dict[str, Any]:
        """JSON values of the settings that ratings depend on, besides the kind."""
        return {}

    def naming_values(self) -> dict[str, Any]:
        """JSON values of the settings that names of features depend on, besides the kind."""
        return {}

    @abstractmethod
    def ratings(self, run: Run, rated: Rated) -> Iterator[pl.DataFrame]:
        """JUDGEMENTS rows, in frames of one layer each."""

    @abstractmethod
    @contextmanager
    def namer(self, run: Run) -> "Iterator[Namer]":
        """Who names features."""

    def known_concepts(self, run: Run) -> list[str] | None:
        """The concepts that it can rate texts for; None: any."""
        return None

    def check_contents(self) -> None:
        """Refuse what a step would refuse later of the settings and of the files that they name."""
        return

    def check_model(self, folder: Path) -> None:
        """Refuse a folder of the judge's model that is not of its form."""
        return

    def check_concepts(self, run: Run, concepts: Sequence[str]) -> None:
        """Refuse concepts that it cannot rate texts for."""
        known = self.known_concepts(run)
        if known is not None and (unknown := sorted(set(concepts) - set(known))):
            raise SettingsError(
                f"the judge of {run.name} knows its topics only, and {unknown[0]!r} is none of them.{did_you_mean(unknown[0], known)}"
                f" Topics are {', '.join(known)}: name one of these, or another judge"
            )

    def check_texts_from_elsewhere(self, run: Run, concepts: Sequence[str]) -> None:
        """Refuse texts of these concepts that are not the experiment's own, where they cannot be rated."""
        self.check_concepts(run, concepts)


class OracleKind(JudgeKind):
    """The judge of a shipped world, which knows its topics."""

    settings: OracleJudge
    pins = ("oracle", "topics")
    reads_tokens = reads_losses = True
    rating_modules = ("world.rating", "analysis.concepts")
    naming_modules = ("world.naming",)

    def ratings(self, run: Run, rated: Rated) -> Iterator[pl.DataFrame]:
        from saesteer.world.rating import rate

        assert rated.losses is not None
        rows = rate(rated.texts, rated.losses, run.world_judge(), run.topics(), self.experiment.rates_blank_texts)
        yield from rows.partition_by("layer", maintain_order=True)

    @contextmanager
    def namer(self, run: Run) -> "Iterator[Namer]":
        from saesteer.world.naming import WorldNamer

        yield WorldNamer(run.world_judge(), run.topics())

    def known_concepts(self, run: Run) -> list[str]:
        return run.topics()

    def check_contents(self) -> None:
        """Refuse a folder that is no judge of a shipped world."""
        from saesteer.world import oracle_judge  # SciPy, which planning does without
        from saesteer.world.books import judge as text_judge

        folder, names = self.settings.oracle, (oracle_judge.SETTINGS, text_judge.SETTINGS)
        if folder.is_dir() and not any((folder / name).is_file() for name in names):
            raise SettingsError(f"judge.oracle: {folder} has neither {names[0]} nor {names[1]}: name the folder of a shipped world's judge")


class EmbeddingKind(JudgeKind):
    """A sentence-embedding model, beside unsteered texts."""

    settings: EmbeddingJudge
    pins = ("judge_model",)
    further_pins = ("perplexity_model",)
    reads_tokens = reads_losses = True
    beside_unsteered = True
    runs_model = True
    rating_modules = ("judge.embedding", "judge.rate_embedding", "judge.word_order", "analysis.concepts")
    naming_modules = ("judge.embedding", "judge.nearest")

    def rating_values(self) -> dict[str, Any]:
        scorer = values_of(self.experiment.perplexity.model, "dtype", "bos")
        values = values_of(self.settings, "descriptions") | {"scorer": scorer}
        return values | {"prompt_format": self.experiment.model.prompt_format}

    def naming_values(self) -> dict[str, Any]:
        """Which names there are."""
        from saesteer.judge.nearest import vocabulary

        return values_of(self.settings, "descriptions") | {"vocabulary": value_digest(vocabulary(self.settings.descriptions))}

    def ratings(self, run: Run, rated: Rated) -> Iterator[pl.DataFrame]:
        from saesteer.judge.embedding import load_embedder
        from saesteer.judge.rate_embedding import rate_beside_unsteered
        from saesteer.judge.word_order import with_order_nats

        assert rated.losses is not None
        assert rated.unsteered is not None
        embedder, scorer = load_embedder(run.model_folder("judge_model")), run.model("perplexity_model")

        def ordered(rows: pl.DataFrame) -> pl.DataFrame:
            return with_order_nats(scorer, rows, rated.prompts, self.experiment.model.prompt_format)

        def described(layer: int, target: str) -> Mapping[str, Sequence[str]]:
            return rated.excerpts(layer).get(target, self.settings.descriptions)

        known = rated.losses.select(*TEXT_KEYS, "mean_nll")
        texts, unsteered = (of.join(known, TEXT_KEYS, how="left", maintain_order="left") for of in (rated.texts, rated.unsteered))
        yield from rate_beside_unsteered(texts, unsteered, embedder.vectors, ordered, described, self.experiment.rates_blank_texts)

    @contextmanager
    def namer(self, run: Run) -> "Iterator[Namer]":
        yield self.nearest_namer(run)

    def nearest_namer(self, run: Run) -> "NearestNamer":
        """Who names features, and texts, by the nearest of a vocabulary."""
        from saesteer.judge.embedding import load_embedder
        from saesteer.judge.nearest import NearestNamer

        embedder = load_embedder(run.model_folder("judge_model"))
        return NearestNamer(embedder.vectors, self.settings.model.name, self.settings.descriptions)

    def check_contents(self) -> None:
        """Refuse fewer unsteered texts than it compares with, and concepts without a word, by which it knows them."""
        from saesteer.analysis.acceptability import WORD
        from saesteer.judge.rate_embedding import LEAST_UNSTEERED

        experiment = self.experiment
        key = "methods.n_prompts" if isinstance(experiment, Comparison) else "sweep.n_prefixes"
        n_prompts, n_samples = self.n_prompts, experiment.sampling.n_samples
        if (n_texts := n_prompts * n_samples) < LEAST_UNSTEERED:
            raise SettingsError(
                f"{key}: judge.kind embedding compares with {LEAST_UNSTEERED} or more unsteered texts of its prompts, and {n_prompts}"
                f" prompts with n_samples {n_samples} give {n_texts}: raise one of them"
            )
        concepts = experiment.methods.concepts if isinstance(experiment, Comparison) else experiment.concepts
        named = [concepts.concept] if isinstance(concepts, GivenConcept) else concepts.names if isinstance(concepts, NamedConcepts) else []
        if nameless := [name for name in named if not WORD.search(name)]:
            raise SettingsError(f"the concept {nameless[0]!r} has no word, and judge.kind embedding knows it by its words: name it by some")

    def check_model(self, folder: Path) -> None:
        text_pooling(folder)

    def check_texts_from_elsewhere(self, run: Run, concepts: Sequence[str]) -> None:
        raise SettingsError(
            f"the judge of {run.name} is of kind embedding, which compares with the losses and unsteered texts of its own experiment: name"
            " another comparison with --judge"
        )


class LanguageModelKind(JudgeKind):
    """A language model that is asked questions."""

    settings: EndpointJudge | LocalModelJudge
    rating_modules: ClassVar[tuple[str, ...]] = ("judge.rate_llm", "analysis.concepts")
    naming_modules: ClassVar[tuple[str, ...]] = ("judge.naming",)

    @abstractmethod
    def asker(self, run: Run) -> "Asker":
        """The model, ready to be asked."""

    @abstractmethod
    def model_values(self) -> dict[str, Any]:
        """JSON values of the settings that say which model answers."""

    @property
    def n_prompts(self) -> int:
        return min(self.settings.n_prefixes or super().n_prompts, super().n_prompts)

    def rating_values(self) -> dict[str, Any]:
        from saesteer.judge.rubric import rubric_digest

        asked = {"rubric": rubric_digest(), "max_tokens": self.settings.max_tokens, "seed": self.settings.seed}
        return asked | {"prompt_format": self.experiment.model.prompt_format} | self.model_values()

    def naming_values(self) -> dict[str, Any]:
        from saesteer.judge.naming import wording_digest

        asked = {"wording": wording_digest(), "max_tokens": self.settings.max_tokens, "seed_of_judge": self.settings.seed}
        return asked | self.model_values()

    def ratings(self, run: Run, rated: Rated) -> Iterator[pl.DataFrame]:
        from saesteer.judge.rate_llm import judge_texts

        instructions = rated.prompts if self.experiment.model.prompt_format == "chat" else None
        folder, seconds = run.data / "judge/answers", run.workflow.part_seconds
        yield from judge_texts(rated.texts, instructions, self.asker(run), folder, seconds, self.experiment.rates_blank_texts)

    @contextmanager
    def namer(self, run: Run) -> "Iterator[Namer]":
        """With a book of answers of its own beside the rows."""
        from saesteer.judge.answers import AnswerBook
        from saesteer.judge.naming import LanguageModelNamer, naming_fingerprint

        asker, folder = self.asker(run), run.data / "explanations/answers"
        with AnswerBook(folder, naming_fingerprint(asker), run.workflow.part_seconds) as book:
            yield LanguageModelNamer(asker, book)


class EndpointKind(LanguageModelKind):
    """A language model behind an OpenAI-compatible address."""

    settings: EndpointJudge

    @property
    def endpoint(self) -> Endpoint:
        return self.settings

    def asker(self, run: Run) -> "Asker":
        from saesteer.judge.batch import endpoint_asker

        return endpoint_asker(self.settings, os.environ, run.spending)

    def model_values(self) -> dict[str, Any]:
        return self.settings.identity


class LocalModelKind(LanguageModelKind):
    """A transformers model on the GPU."""

    settings: LocalModelJudge
    pins = ("judge_model",)
    runs_model = True
    rating_modules = (*LanguageModelKind.rating_modules, "judge.local_model")
    naming_modules = (*LanguageModelKind.naming_modules, "judge.local_model")

    def asker(self, run: Run) -> "Asker":
        from saesteer.engine.models import load_language_model
        from saesteer.engine.weights import available_device
        from saesteer.judge.local_model import local_asker

        lm = load_language_model(run.model_folder("judge_model"), self.settings.model.dtype, available_device())
        return local_asker(lm, self.settings, run.pin("judge_model")["digest"])

    def model_values(self) -> dict[str, Any]:
        return {"dtype": self.settings.model.dtype, **self.settings.model.template_values}


KINDS: Mapping[type[Any], type[JudgeKind]] = {
    OracleJudge: OracleKind,
    EmbeddingJudge: EmbeddingKind,
    EndpointJudge: EndpointKind,
    LocalModelJudge: LocalModelKind,
}
"""Kind of settings -> the kind of judge."""


def judge_of(experiment: Experiment) -> JudgeKind | None:
    """The experiment's judge; None where nothing is rated."""
    if isinstance(experiment, Scores) or type(experiment.judge) not in KINDS:
        return None
    return KINDS[type(experiment.judge)](experiment, experiment.judge)
