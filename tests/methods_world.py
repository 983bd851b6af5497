"""The shipped world as a steering method is given it: training texts of a topic from its grammar, the model, an SAE, its scored features.

`problem(topic="sea", n_texts=24)` is all that most tests need. Models, SAEs and tables are kept for the session; don't change them.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import torch
from engine_models import WORLD, shipped_model, shipped_sae

from saesteer.analysis.concepts import NO_TOPIC
from saesteer.core.tables import FEATURES, validate
from saesteer.engine.logit_lens import lens_tokens
from saesteer.engine.models import residual_at
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import encode
from saesteer.methods.fit.problem import Approximator, Problem, Text, Tokens
from saesteer.methods.fit.training import ReadText, read_texts, trained_epochs
from saesteer.settings.recipes import Training, recipes_of
from saesteer.world.grammar import join_words, single_sentence
from saesteer.world.lexicon import OUTPUT_SCORE_PROMPT, Lexicon, load_lexicon

LAYER = 5
N_LENS_TOKENS = 20
TEXTS_PER_TOPIC = 12  # behind the table of features
MIN_RECORDS = 3
CLEAR_SHARE = 0.4


def problem(
    topic: str = "sea",
    n_texts: int = 24,
    layer: int = LAYER,
    features: Sequence[int] | None = None,
    seed: int = 0,
    text_seed: int = 0,
    effects: Approximator | None = None,
    vectors: Mapping[str, torch.Tensor] | None = None,
    learning_rates: Sequence[float] = (),
) -> Problem:
    """One topic at one layer: `n_texts` positive and as many negative texts (of the other topics in turn), the candidates (None: all
    features), the feature labelled with the topic, if one is. Trained methods are trained as published unless learning rates are given."""
    table = features_table(layer) if features is None else features_table(layer).filter(pl.col("feature").is_in(list(features)))
    return Problem(
        lm=shipped_model(),
        sae=shipped_sae(layer),
        layer=layer,
        concept=topic,
        positive=tuple(texts_of(topic, n_texts, text_seed)),
        negative=tuple(texts_not_of(topic, n_texts, text_seed)),
        features=table,
        label=labelled(table, topic),
        effects=effects,
        vectors=dict(vectors or {}),
        seed=seed,
        training=Training(recipes_of("shipped"), tuple(learning_rates)),
        words=words_of(topic),
    )


def random_effects(seed: int = 0) -> Approximator:
    """A made-up approximator of the shipped SAE's features."""
    rng = np.random.default_rng(seed)
    return Approximator(torch.tensor(rng.normal(size=(128, 1024))).float(), torch.tensor(rng.normal(size=1024)).float(), 0.5)


def read(given: Problem, texts: Sequence[Text]) -> list[ReadText]:
    """Texts with what the model has at the problem's site."""
    return read_texts(given.lm, given.site, texts)


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
    number = torch.arange(len(texts)).repeat_interleave(torch.tensor([len(text) for text in texts]))
    return Tokens(rows, rows, number, len(texts))


@cache
def lexicon() -> Lexicon:
    """The grammar's words."""
    return load_lexicon(WORLD / "lexicon.yaml", WORLD.parents[1] / "config/prefixes.txt")


def words_of(topic: str) -> tuple[str, ...]:
    """The grammar's words for a topic's things, people and places, as far as it has such lists."""
    (one,) = (one for one in lexicon().topics if one.name == topic)
    return tuple(word for name in ("things", "people", "places") for word in one.lists.get(name, ()))


def texts_of(topic: str, n: int, seed: int = 0) -> list[Text]:
    """Sentences of a topic, each after a neutral opener; the first 10 of 20 are the 10."""
    rng = random.Random(f"{seed}/{topic}")
    return [_text(lexicon().names.index(topic), rng) for _ in range(n)]


def texts_not_of(topic: str, n: int, seed: int = 0) -> list[Text]:
    """Sentences of the other topics, in turn."""
    rng = random.Random(f"{seed}/not {topic}")
    others = [number for number, name in enumerate(lexicon().names) if name != topic]
    rng.shuffle(others)
    return [_text(others[place % len(others)], rng) for place in range(n)]


def _text(topic: int, rng: random.Random) -> Text:
    sentence = single_sentence(lexicon(), topic, 0.9999, rng)
    n_opening = sentence.topics.count(NO_TOPIC)
    tokenizer = shipped_model().tokenizer
    ids = tokenizer(join_words(sentence.words))["input_ids"]
    context = tokenizer(join_words(sentence.words[:n_opening]))["input_ids"]
    assert ids[: len(context)] == context
    assert len(context) > 1
    return Text(list(ids), len(context))


def labelled(table: pl.DataFrame, topic: str) -> int | None:
    """The feature that stands for a topic: of those with it as concept the one of largest share, then largest activation."""
    rows = table.filter(pl.col("concept") == topic).sort("concept_share", "max_activation", descending=True)
    return None if rows.is_empty() else int(rows["feature"][0])


@cache
@torch.no_grad()
def features_table(layer: int = LAYER) -> pl.DataFrame:
    """FEATURES rows of all features of a layer: lens tokens and output scores as the workflow computes them; densities, largest
    activations, input scores and concepts measured on a few texts of every topic instead of on records."""
    lm, sae = shipped_model(), shipped_sae(layer)
    n = sae.meta.n_features
    lens, _ = lens_tokens(lm, sae.W_dec, N_LENS_TOKENS)
    scores = output_scores(lm, sae, layer, range(n), lens, OUTPUT_SCORE_PROMPT, 10.0)
    frame = pl.DataFrame(
        {
            "layer": [layer] * n,
            "feature": range(n),
            "explanations": [[]] * n,
            "explanation": [None] * n,
            "page": [None] * n,
            "lens_tokens": [lm.tokenizer.convert_ids_to_tokens(row) for row in lens.tolist()],
            "lens_token_ids": lens.tolist(),
            "decoder_norm": sae.W_dec.norm(dim=1).tolist(),
            **_measured(layer, lens),
        }
    ).with_columns(pl.col("feature").cast(pl.UInt32))
    table = frame.join(scores, on="feature", how="left", maintain_order="left").select(list(FEATURES.columns)).cast(FEATURES.schema)
    return validate(FEATURES, table, "tests")


def _measured(layer: int, lens: torch.Tensor) -> dict[str, list[object]]:
    """What activations on texts of every topic say about each feature."""
    names = lexicon().names
    texts = [text for name in names for text in texts_of(name, TEXTS_PER_TOPIC, seed=10_000)]
    codes, ids = _codes(layer, texts)  # [text seq n_features], [text seq]; 0 in the context and the padding
    n_tokens = sum(len(text.ids) - text.n_context for text in texts)
    largest, place = codes.max(dim=1)  # [text n_features]
    active = largest > 0
    n_records = active.sum(dim=0)
    hit = (ids.gather(1, place)[:, :, None] == lens[None]).any(dim=2) & active
    shares = active.reshape(len(names), TEXTS_PER_TOPIC, -1).sum(dim=1) / n_records.clamp(min=1)  # [topic n_features]
    share, topic = shares.max(dim=0)
    few = n_records < MIN_RECORDS
    columns = zip(n_records.tolist(), few.tolist(), share.tolist(), topic.tolist(), strict=True)
    concepts = [(names[t] if s >= CLEAR_SHARE and not f else None, s if n else None) for n, f, s, t in columns]
    return {
        "density": ((codes > 0).sum(dim=(0, 1)) / n_tokens).tolist(),
        "max_activation": [value or None for value in largest.amax(dim=0).tolist()],
        "n_records": n_records.tolist(),
        "concept": [concept for concept, _ in concepts],
        "concept_share": [value for _, value in concepts],
        "input_score": _unless(few, (hit.sum(dim=0) / n_records.clamp(min=1)).tolist()),
        "input_score_reason": [f"fewer than {MIN_RECORDS} records" if one else None for one in few.tolist()],
    }


def _unless(absent: torch.Tensor, values: list[float]) -> list[object]:
    return [None if one else value for one, value in zip(absent.tolist(), values, strict=True)]


def _codes(layer: int, texts: Sequence[Text]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(text.ids) for text in texts)
    ids = torch.tensor([text.ids + [0] * (width - len(text.ids)) for text in texts])
    is_output = torch.tensor([[text.n_context <= place < len(text.ids) for place in range(width)] for text in texts])
    codes = encode(shipped_sae(layer), residual_at(shipped_model(), ids, layer + 1))
    return codes * is_output[:, :, None], ids
