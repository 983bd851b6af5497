"""The shipped world's card, data/world/README.md, written from its metrics.json; nobody types a number."""

from collections.abc import Sequence
from typing import Any

from saesteer.core.markdown import escaped, table

INTRODUCTION = """\
# The shipped world

A small language model with a sparse autoencoder (SAE) on every layer, small enough for a laptop, whose text has a known truth: a
grammar wrote it and labelled every token with its topic. This page is written by `studies.world.card` from metrics.json; `make
world SEED=n` trains a seed again from nothing into build/world/seed_n/, `make world-adopt` ships seed 0. Three seeds were trained;
the shipped one is the first, not the best.

| file | what it is |
|---|---|
| model/ | the language model that is steered (Hugging Face form, float16; compute in float32) |
| reference_model/ | a second model, other initial weights and data order; it gives perplexity and fluency (no model rates itself) |
| saes/layer_NN/ | one JumpReLU SAE a layer on the block's output (sae-lens form, float16; compute in float32) |
| texts.parquet | labelled texts that no model was trained on: text, token_ids (BOS first), token_topics (255: none) |
| topics.json | the topics' names in index order |
| oracle/ | the judge that knows the topics: naive Bayes weights, thresholds, accuracies |
| lexicon.yaml | the grammar's words |
| metrics.json | every number on this page |
"""

CORPUS = """\
## Corpus

{n_topics} topics, most with their own people, acts, verbs, things, adjectives and places (lexicon.yaml); French, number facts and
code have clauses of their own. A document has 3 to 9 sentences, mostly of one topic: each later sentence leaves it with 6 % chance.
Words are drawn by Zipf's law and prefer partners: a verb its things, a thing its adjectives and places, a person their verbs. A
person may come back as a pronoun. About 30 % of documents and 8 % of later sentences open with a topic-neutral phrase: one of the
50 prefixes of config/prefixes.txt, or the output score's prompt. Each sentence ends with ".", a token of its own. The tokenizer
holds {vocabulary} pieces: words, characters and bytes.

Training, held-out, SAE, labelled and the oracle's fitting, calibration and test texts come from separate random streams. Whole texts
do not repeat between training and labelled texts; single sentences do, as in any corpus.
"""

LANGUAGE = """\
## Language models

Gemma-2 architecture, {n_layers} layers, d_model {d_model}, {parameters:,} parameters, {training_tokens:,} training tokens. Losses
are in nats a token on {held_out_tokens:,} held-out tokens, with the weights as stored. The entropy of the grammar's derivations
bounds the text's entropy from above, so a perfect model would reach it or fall slightly below; this one, trained briefly, does not.
Minutes are wall time on two cores. Where there is none, phases were run apart or the cores were shared, so that it would mean nothing.
"""

SAE_TEXT = """\
## Residuals and SAEs

{d_sae} features a layer, trained as BatchTopK (k = {k}, {steps} steps of {batch} tokens), stored as JumpReLU with one threshold a
layer and b_dec folded into b_enc. BOS, EOS and padding were left out of training and of these numbers. Explained variance: 1 -
squared error / variance. L0: mean active features. Dead: features that never fire on the held-out texts. Loss recovered: of the
loss that replacing the residual by its mean costs, the share that the reconstruction wins back.
"""

ORACLE = """\
## The oracle

A naive Bayes topic model over tokens. Concept 0-2: the share of distinct content tokens (those whose topic distribution lies at least
{content_nats:.2f} nats from the prior) with P(topic | token) > {topic_posterior:g}, cut at {concept_shares[0]:.2f} and \
{concept_shares[1]:.2f}; 0 below {least_on_topic} such
tokens. Fluency 0-2: one less for each that lies outside what 90 % or 95 % of sentences have: loss under the reference model
({nats[0]:.2f} to {nats[1]:.2f} nats a token), share of function words ({function_shares[0]:.2f} to {function_shares[1]:.2f}), what the \
order of the other words is
worth to a bigram model ({order_nats:.2f} nats a pair); 0 above {most_nats:.2f} nats, or where less than {distinct_bigrams:.2f} of the
pairs of successive tokens are distinct. Parameters, thresholds and accuracies each come from a split of their own. **The accuracies
are on corruptions made by the same grammar: they are not agreement with people.** For the concept these are halves of two sentences
joined, other sentences with words of the topic in them, and single words. For fluency words are left out, replaced, shuffled or looped.
The topics share almost no words, so telling whole sentences apart is easy here.
Fluency is measured by the second model; a judge that used the steered model itself
would be lenient. Where there is no fluency, that seed's models were not here when the corruptions last changed.
"""

LIMITS = """\
## What it is good for, and what not

- A model organism: a demonstration that selecting and steering features can be checked where the truth is known, and a test bed
  that runs everywhere in minutes.
- **Not evidence about large models.** Text, vocabulary and model are tiny, and the topics are cleaner than any real corpus.
- **The initialisation was chosen.** Each layer starts out writing {growth:g} times as much as the one before, so that the residual
  norm grows with depth as it does in Gemma-2. It was chosen after a natural one failed to show the paper's pattern. That negative
  result, from one exploratory run: with an ordinary initialisation the direct path of an early layer's push to the logits is never
  washed out, and the median output score is flat over layers (.20 .16 .20 .18 .16). A later run with that initialisation is among the
  four models of docs/known-truth.md. So the output score may not follow depth in models whose residual norm grows little.
- The SAEs' k is the exploratory run's; no other was tried here. The weight of their auxiliary loss was chosen on two layers of seed 0
  by dead features, before any steering result was seen.
"""


def render_card(metrics: dict[str, Any], topics: Sequence[str]) -> str:
    """The whole page; `metrics` is data/world/metrics.json."""
    seeds = metrics["seeds"]
    first = seeds[0]
    language, recipe, thresholds = first["language"], first["recipe"], first["oracle"]["thresholds"]
    parts = [
        INTRODUCTION,
        LIMITS.format(growth=recipe["model"]["growth"]),
        CORPUS.format(n_topics=len(topics), vocabulary=language["vocabulary"]) + "\nTopics: " + ", ".join(topics) + ".\n",
        LANGUAGE.format(**recipe["model"], **language),
        language_table(seeds),
        "Continuations by the shipped model, temperature 0.7, unchosen:\n\n" + "".join(f"- {escaped(text)}\n" for text in first["samples"]),
        SAE_TEXT.format(**recipe["sae"]),
        *map(layer_table, seeds),
        ORACLE.format(**thresholds),
        oracle_table(seeds),
    ]
    return "\n".join(parts)


def language_table(seeds: Sequence[dict[str, Any]]) -> str:
    """Losses and training time, one row a seed."""
    rows = []
    for seed in seeds:
        losses = [f"{seed['language'][name]:.3f}" for name in ("entropy_bound", "model_loss", "reference_loss")]
        minutes = f"{seed['seconds']['total'] / 60:.1f}" if seed["seconds"] else "not measured"
        rows.append([seed["seed"], *losses, minutes])
    return table(["seed", "entropy bound", "model", "reference model", "minutes for everything"], rows) + "\n"


def layer_table(seed: dict[str, Any]) -> str:
    """One seed's layers."""
    row = "{layer}|{residual_norm:.1f}|{explained_variance:.3f}|{l0:.1f}|{dead}|{loss_recovered:.4f}"
    rows = [row.format(**layer).split("|") for layer in seed["layers"]]
    head = ["layer", "residual norm", "explained variance", "L0", "dead", "loss recovered"]
    return f"Seed {seed['seed']}:\n\n{table(head, rows)}\n"


def oracle_table(seeds: Sequence[dict[str, Any]]) -> str:
    """The judge's accuracies on its test split, one row a seed."""
    names = ("sentence_accuracy", "calibration_error", "concept_accuracy", "fluency_accuracy")
    measured = [[seed["oracle"][name] for name in names] for seed in seeds]
    rows = [
        [seed["seed"], *("not measured" if value is None else f"{value:.4f}" for value in values)]
        for seed, values in zip(seeds, measured, strict=True)
    ]
    return table(["seed", "topic of a sentence", "calibration error", "concept 0-2", "fluency 0-2"], rows) + "\n"


def comparison(built: dict[str, Any], shipped: dict[str, Any]) -> str:
    """A freshly built seed's tables, then the shipped seeds'."""
    parts = []
    for title, seeds in (("built", [built]), ("shipped", shipped["seeds"])):
        parts += [f"== {title}\n", language_table(seeds), *map(layer_table, seeds), oracle_table(seeds)]
    return "\n".join(parts)
