"""The judge of any concept by sentence embeddings."""

import degenerate_english as english
import polars as pl


def test_every_kind_of_degenerate_english_is_there_on_the_same_prompts() -> None:
    texts = english.texts()
    assert set(texts["kind"]) == {*english.DESIGN, *english.HELD_OUT, english.HONEST}
    assert not set(english.DESIGN) & set(english.HELD_OUT)
    assert texts.group_by("kind").agg(pl.struct("concept", "opener").n_unique())["concept"].unique().to_list() == [60]
    assert english.sentences()["text"].n_unique() == 96
