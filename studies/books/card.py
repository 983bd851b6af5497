"""The card of the books' world, data/world-books/README.md, written from its metrics.json; nobody types a number."""

from collections.abc import Sequence
from typing import Any

from saesteer.core.markdown import escaped, table
from studies.books.fit_judge import accuracy
from studies.world.card import layer_table

INTRODUCTION = """\
# The world of the books

A small language model of natural English with a sparse autoencoder (SAE) on every layer. It was trained on {n_books} public-domain books
in {n_topics} topics, most of 1760 to 1925 (books.csv: each with author, year, repository and commit). The books are not here: only what was
made from them. This page is written by `studies.books.card` from metrics.json; `make books PARAGRAPHS=file.parquet` trains it
again from the paragraphs, and goes on where it was stopped; `make books-adopt` ships the result.

| file | what it is |
|---|---|
| model/ | the language model that is steered (Hugging Face form, float16; compute in float32) |
| reference_model/ | a second model, other initial weights and data order; it gives perplexity and fluency (no model rates itself) |
| saes/layer_NN/ | one JumpReLU SAE a layer on the block's output (sae-lens form, float16; compute in float32) |
| texts.parquet | texts that the model wrote itself, labelled by the judge: text, token_ids (BOS first), token_topics (255: none) |
| concept_texts.parquet | sentences that the model wrote itself, by the topic that the judge gives them: concept, opener, text |
| topics.json | the topics' names in index order |
| judge/ | the topic classifier, its cuts, and what was measured on books that nothing was fitted on |
| books.csv | the books: title, author, year, topic, split, repository, commit, rights |
| metrics.json | every number on this page |

## What it is good for, and what not

- Whether what holds in the grammar's world (data/world) holds where topics share words and nothing is clean.
- **Not evidence about large models.** It is a small model of old books: its sentences are grammatical for a phrase or two. Its style and
  its views are those of its time, and what it writes can repeat prejudices of that time; medicine and advice are out of date.
- **The judge errs and can be gamed**: it rates a text of 20 to 40 tokens, which often could be about several topics. How often it is right
  is below. One list of topic words, the same after every prompt, scores 1.88 of 2, so nothing that it judged is shown any more.
- The texts are the model's own, labelled by the judge, so what their max-activating examples show is what the model and
  the judge make of a topic.
"""

LANGUAGE = """\
## Language models

Gemma-2 architecture, {n_layers} layers, d_model {d_model}, {parameters:,} parameters, a byte-pair tokenizer of {vocabulary} pieces,
{tokens_seen:,} training tokens (of {tokens:,} in the train books), ordinary initialisation. Losses are in nats a token on
{valid_tokens:,} tokens, drawn from {n_valid} books of other authors, with the weights as stored: model {valid_loss:.3f}, reference model
{reference_valid_loss:.3f}.
"""

SAES = """\
## Residuals and SAEs

{d_sae} features a layer, trained as BatchTopK (k = {k}, {steps} steps of {batch} tokens), stored as JumpReLU with one threshold a layer.
The columns are those of the card of the grammar's world, on the valid books.
"""

JUDGE = """\
## The judge

Naive Bayes over the distinct words of a text, counted on the train books; log-likelihoods times {sharpness:.3f}. The concept rating has
cuts at P(topic | text) = {concept_cuts[0]:.3f} and {concept_cuts[1]:.3f}. It is 0 where without the {left_out} words that speak \
most for the topic
it is no likelier than before the text was read. The fluency rating has cuts at {fluency_nats[0]:.2f} and {fluency_nats[1]:.2f} nats a \
token under the reference
model. It is 0 where less than {distinct_bigrams:.2f} of the pairs of successive words are distinct, since a model expects what repeats \
itself. All cuts are fitted on the
valid books; how many words are left out is not. Measured on {measured[runs]:,} runs of 20 to 40 tokens of the \
{n_judge} judge books,
whose authors are in no other split: the likeliest topic of {n_topics} is the book's for {measured[topic_accuracy]:.3f} of them (chance
{chance:.3f}; calibration error {measured[calibration_error]:.3f}). A run is often about nothing in particular, so this has \
a ceiling well below 1.

Concept 0 to 2 of a run of another topic, half of one, and of the topic: rated as made {concept:.3f}. Fluency 0 to 2 of a run shuffled or
with one to four tokens over and over, of one with a tenth of its words replaced, and as written: {fluency:.3f}. **These accuracies are
on the books' own text: they are not agreement with people, nor on steered text.**
"""

TEXTS = """\
## Texts

{counts[sampled]:,} texts were sampled from the model (temperature {temperature:g}, no other cut), as many from the words \
that tell most about each
topic. {counts[kept]:,} remain: those that the tokenizer
reads as they were written, none twice. None has more than half of its runs of eight words in common with a train book (mean share
{counts[copied_share]:.4f}). Texts by topic, where the judge gives one more than half: {topics}.
"""


def render_card(metrics: dict[str, Any], books: dict[str, int]) -> str:
    """The whole page; `metrics` is metrics.json, `books` how many books each split has."""
    judge, recipe, measured = metrics["judge"], metrics["recipe"], metrics["judge"]["measured"]
    by_topic, counts = measured["topic_accuracy_by_topic"], metrics["texts"]
    parts = [
        INTRODUCTION.format(n_books=books["train"], n_topics=len(by_topic)),
        LANGUAGE.format(**recipe["model"], **metrics["language"], n_valid=books["valid"]),
        "Continuations by the model, temperature 0.7, unchosen:\n\n" + "".join(f"- {escaped(text)}\n" for text in metrics["samples"]),
        SAES.format(**recipe["sae"]),
        layer_table(metrics),
        JUDGE.format(
            **judge,
            n_judge=books["judge"],
            n_topics=len(by_topic),
            chance=1 / len(by_topic),
            concept=accuracy(measured["concept_ratings"]),
            fluency=accuracy(measured["fluency_ratings"]),
        ),
        table(["topic", "right"], [[name, f"{share:.2f}"] for name, share in by_topic.items()]) + "\n",
        rating_table("concept", measured["concept_ratings"]),
        rating_table("fluency", measured["fluency_ratings"]),
        TEXTS.format(
            counts=counts,
            temperature=recipe["samples"]["temperature"],
            topics=", ".join(f"{name} {n}" for name, n in counts["topics"].items()),
        ),
    ]
    return "\n".join(parts)


def rating_table(aspect: str, counts: Sequence[Sequence[int]]) -> str:
    """How many runs made as each rating got which."""
    return table([f"{aspect}: made as", "rated 0", "1", "2"], [[rating, *row] for rating, row in enumerate(counts)]) + "\n"
