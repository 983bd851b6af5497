"""The shipped world as a steering method is given it: training texts of a topic from its grammar, the model, an SAE, its scored features.

`problem(topic="sea", n_texts=24)` is all that most tests need. Models, SAEs and tables are kept for the session; don't change them.
"""

import random
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import torch
from engine_models import WORLD, shipped_model, shipped_sae

from saesteer.analysis.concepts import NO_TOPIC
from saesteer.core.tables import validate
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import residual_at
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import encode
from saesteer.methods.fit.fits import labelled_feature
from saesteer.methods.fit.problem import Approximator, Problem, Tokens, TrainingText, output_mask, padded_ids
from saesteer.methods.fit.training import ReadText, read_texts, trained_epochs
from saesteer.settings.registry import Training, recipes_of
from saesteer.steps.features import FEATURES
from saesteer.world.grammar import join_words, single_sentence
from saesteer.world.lexicon import OUTPUT_SCORE_PROMPT, Lexicon, load_lexicon

LAYER = 5
N_LOGIT_LENS_TOKENS = 20
TEXTS_PER_TOPIC = 12  # behind the table of features
MIN_EXAMPLES = 3
CLEAR_SHARE = 0.4


def problem(
    topic: str = "sea",
    n_texts: int = 24,
    features: Sequence[int] | None = None,
    seed: int = 0,
    text_seed: int = 0,
    effects: Approximator | None = None,
    vector: torch.Tensor | None = None,
    learning_rates: Sequence[float] = (),
) -> Problem:
    """One topic at `LAYER`: `n_texts` positive and as many negative texts (of the other topics in turn), the candidates (None: all
    features), the feature labelled with the topic, if one is. Trained methods are trained as published unless learning rates are given."""
    table = features_table() if features is None else features_table().filter(pl.col("feature").is_in(list(features)))
    return Problem(
        lm=shipped_model(),
        sae=shipped_sae(LAYER),
        layer=LAYER,
        concept=topic,
        positive=tuple(texts_of(topic, n_texts, text_seed)),
        negative=tuple(texts_not_of(topic, n_texts, text_seed)),
        features=table,
        label=labelled_feature(table, topic),
        effects=effects,
        vector=vector,
        seed=seed,
        training=Training(recipes_of("shipped"), tuple(learning_rates)),
        words=words_of(topic),
    )


def random_effects(seed: int = 0) -> Approximator:
    """A made-up approximator of the shipped SAE's features."""
    rng = np.random.default_rng(seed)
    return Approximator(torch.tensor(rng.normal(size=(128, 1024))).float(), torch.tensor(rng.normal(size=1024)).float(), 0.5)


def read(given: Problem, texts: Sequence[TrainingText]) -> list[ReadText]:
    """Texts with what the model has at the problem's hook point."""
    return read_texts(given.lm, given.hook_point, texts)


def trained_by_recipe(method: ModuleType, given: Problem, *groups: Sequence[Any]) -> torch.Tensor:
    """A method's first parameter after training on all of these groups as published."""
    name = method.__name__.rpartition(".")[2]
    generator = given.generator(name)
    trainee = method.untrained(given, generator)
    for _ in trained_epochs(trainee, [item for group in groups for item in group], given.training.recipes[name], generator):
        pass
    parameter: torch.Tensor = trainee.parameters[0].detach()
    return parameter


Toy = Sequence[Sequence[Sequence[float]]]  # texts of tokens of residuals


def toy_problem(positive: Toy, negative: Toy, **options: Any) -> Problem:
    """A problem whose texts' residuals are given by hand, for methods that read nothing else of the texts."""
    made = problem(n_texts=2, **options)
    made.__dict__.update(positive_tokens=toy_tokens(positive), negative_tokens=toy_tokens(negative))
    return made


def toy_tokens(texts: Toy) -> Tokens:
    """Residuals given by hand."""
    rows = torch.tensor([row for text in texts for row in text], dtype=torch.float32)
    return Tokens(rows, rows, [len(text) for text in texts])


@cache
def lexicon() -> Lexicon:
    """The grammar's words."""
    return load_lexicon(WORLD / "lexicon.yaml", WORLD.parents[1] / "config/prefixes.txt")


def words_of(topic: str) -> tuple[str, ...]:
    """The grammar's words for a topic's things, people and places, as far as it has such lists."""
    lists = lexicon().topics[lexicon().names.index(topic)].lists
    return tuple(word for name in ("things", "people", "places") for word in lists.get(name, ()))


def texts_of(topic: str, n: int, seed: int = 0) -> list[TrainingText]:
    """Sentences of a topic, each after a neutral opener; the first 10 of 20 are the 10."""
    rng = random.Random(f"{seed}/{topic}")
    return [_text(lexicon().names.index(topic), rng) for _ in range(n)]


def texts_not_of(topic: str, n: int, seed: int = 0) -> list[TrainingText]:
    """Sentences of the other topics, in turn."""
    rng = random.Random(f"{seed}/not {topic}")
    others = [number for number, name in enumerate(lexicon().names) if name != topic]
    rng.shuffle(others)
    return [_text(others[place % len(others)], rng) for place in range(n)]


def _text(topic: int, rng: random.Random) -> TrainingText:
    sentence = single_sentence(lexicon(), topic, 0.9999, rng)
    n_opening = sentence.topics.count(NO_TOPIC)
    tokenizer = shipped_model().tokenizer
    ids = tokenizer(join_words(sentence.words))["input_ids"]
    context = tokenizer(join_words(sentence.words[:n_opening]))["input_ids"]
    assert ids[: len(context)] == context
    assert len(context) > 1
    return TrainingText(list(ids), len(context))


@cache
@torch.no_grad()
def features_table() -> pl.DataFrame:
    """FEATURES rows of all features of `LAYER`: top logit-lens tokens and output scores as the workflow computes them; densities, max
    activations, input scores and concepts measured on a few texts of every topic instead of on max-activating examples."""
    lm, sae, names = shipped_model(), shipped_sae(LAYER), lexicon().names
    n = sae.meta.n_features
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec, N_LOGIT_LENS_TOKENS)
    scores = output_scores(lm, sae, LAYER, range(n), lens, OUTPUT_SCORE_PROMPT, 10.0)
    texts = [text for name in names for text in texts_of(name, TEXTS_PER_TOPIC, seed=10_000)]
    ids = padded_ids(lm, texts)
    activations = encode(sae, residual_at(lm, ids, LAYER + 1)) * output_mask(texts, lm.device)[:, :, None]  # [text seq n_features]
    largest, position = activations.max(dim=1)  # [text n_features]
    active = largest > 0
    n_examples = active.sum(dim=0)
    hit = (ids.gather(1, position)[:, :, None] == lens[None]).any(dim=2) & active
    shares = active.reshape(len(names), TEXTS_PER_TOPIC, -1).sum(dim=1) / n_examples.clamp(min=1)  # [topic n_features]
    share, topic = shares.max(dim=0)
    few = pl.col("n_examples") < MIN_EXAMPLES
    columns = {
        "layer": [LAYER] * n,
        "feature": range(n),
        "explanations": [[]] * n,
        "explanation": [None] * n,
        "page": [None] * n,
        "top_logit_lens_tokens": [lm.tokenizer.convert_ids_to_tokens(row) for row in lens.tolist()],
        "top_logit_lens_token_ids": lens.tolist(),
        "decoder_norm": sae.W_dec.norm(dim=1).tolist(),
        "density": ((activations > 0).sum(dim=(0, 1)) / sum(text.n_output for text in texts)).tolist(),
        "max_activation": [value or None for value in largest.amax(dim=0).tolist()],
        "n_examples": n_examples.tolist(),
        "concept": [names[number] for number in topic.tolist()],
        "concept_share": share.tolist(),
        "input_score": (hit.sum(dim=0) / n_examples.clamp(min=1)).tolist(),
        "input_score_reason": [f"fewer than {MIN_EXAMPLES} max-activating examples"] * n,
    }
    frame = pl.DataFrame(columns).with_columns(
        pl.col("feature").cast(pl.UInt32),
        concept=pl.when(~few, pl.col("concept_share") >= CLEAR_SHARE).then("concept"),
        concept_share=pl.when(pl.col("n_examples") > 0).then("concept_share"),
        input_score=pl.when(~few).then("input_score"),
        input_score_reason=pl.when(few).then("input_score_reason"),
    )
    table = frame.join(scores, on="feature", how="left", maintain_order="left").select(list(FEATURES.columns)).cast(FEATURES.schema)
    return validate(FEATURES, table, "tests")
