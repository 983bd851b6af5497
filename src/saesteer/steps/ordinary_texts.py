"""The ordinary texts on which it is measured what steering does to text that has nothing to do with it."""

from saesteer.run import Run
from saesteer.settings import Comparison, LocalExamples, Steering
from saesteer.settings.methods import ORDINARY_TOKENS
from saesteer.sources.corpus import read_texts


def ordinary_texts_pin(experiment: Steering) -> str | None:
    """The pin of the ordinary texts; None: there are none."""
    if isinstance(experiment, Comparison) and experiment.methods.ordinary_texts:
        return "ordinary_texts"
    return "texts" if isinstance(experiment.max_activating_examples, LocalExamples) else None


def ordinary(run: Run, n_texts: int, n_tokens: int = ORDINARY_TOKENS) -> list[list[int]]:
    """The first `n_tokens` tokens of `n_texts` ordinary texts."""
    from saesteer.engine.damage import ordinary_texts

    file, model = run.file(str(ordinary_texts_pin(run.steering))), run.experiment.model
    corpus = read_texts(file, run.model_folder(), model.bos, n_tokens)
    return ordinary_texts(corpus["token_ids"].to_list(), n_texts, n_tokens)
