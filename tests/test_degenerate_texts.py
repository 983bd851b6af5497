"""Texts that game a judge: what the table of them holds."""

from functools import cache
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from saesteer.world.concept_texts import topic_texts
from saesteer.world.degenerate import KINDS, degenerate_texts
from saesteer.world.lexicon import load_lexicon

ROOT = Path(__file__).parents[1]
SEED = 77
"""Of sentences that nothing was fitted on."""


@cache
def labelled(world: str) -> pl.DataFrame:
    """Sentences of a world by their concept, each with the opener that it goes on from."""
    if world == "world-books":
        return pl.read_parquet(ROOT / "data/world-books/concept_texts.parquet")
    lexicon = load_lexicon(ROOT / "data/world/lexicon.yaml", ROOT / "config/prefixes.txt")
    concepts, texts = topic_texts(lexicon, lexicon.names, lexicon.openers, 40, 0, SEED)
    return texts.join(concepts, on="concept_id").select("concept", opener="input", text="output")


@pytest.mark.parametrize("world", ["world", "world-books"])
def test_every_kind_is_there_as_often_and_the_order_of_sentences_does_not_matter(world: str) -> None:
    texts = degenerate_texts(labelled(world))
    assert texts["kind"].value_counts().sort("kind").rows() == [(kind, 20) for kind in sorted(KINDS)]
    assert texts["text"].is_unique().all()
    assert texts["concept"].n_unique() == min(20, labelled(world)["concept"].n_unique())
    assert_frame_equal(degenerate_texts(labelled(world).sample(fraction=1, shuffle=True, seed=1)), texts)
    assert not degenerate_texts(labelled(world), seed=1).equals(texts)


def test_kinds_are_what_they_say() -> None:
    sentences = [("sky", "Look:", "the moon rose over moon and stars."), ("food", "Well,", "he fried the peas in a deep pan of oil.")]
    texts = degenerate_texts(pl.DataFrame(sentences, schema=["concept", "opener", "text"], orient="row"), 40)
    words = {kind: [text.strip(" .").split() for text in texts.filter(kind=kind)["text"]] for kind in KINDS}
    assert all(len(set(of)) == 1 and len(of) >= 6 for of in words["one word"])
    assert all(of[0] == "the" and len(of) == 2 for of in words["the word"])
    assert all(any(of[n:] == of[:-n] for n in (2, 3, 4)) and len(of) == 18 for of in words["loop"])
    own = {concept: sorted(text.strip(".").split()) for concept, _, text in sentences}
    assert [sorted(of) for of in words["shuffled"]] == [own[concept] for concept in texts.filter(kind="shuffled")["concept"]]
    for kind, added in (("appended", (1, 3)), ("inserted", (1, 3)), ("substituted", (0, 0))):
        for concept, of in zip(texts.filter(kind=kind)["concept"], words[kind], strict=True):
            other = own["sky" if concept == "food" else "food"]
            assert len(other) + added[0] <= len(of) <= len(other) + added[1], kind
            assert set(of) & set(own[concept]), kind
    with pytest.raises(ValueError, match="of 1 concept"):
        degenerate_texts(pl.DataFrame(sentences[:1], schema=["concept", "opener", "text"], orient="row"))
