"""Other judges beside the embedding judge, on texts of a comparison of methods."""

from pathlib import Path

import polars as pl
from judge_server import judge_server
from report_folders import compared

from saesteer.rating.agreement import agreement
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from studies.public.judges import TOPICS, agreements, by_endpoint, by_topic, ratings_of

SAID = {
    "the sea": " the ship sailed on the waves, and the sailors watched the sea and the harbour.",
    "war": " the soldiers fired their guns, and the army of the enemy fled from the battle.",
}


def test_texts_are_rated_by_topic_and_by_an_endpoint_and_compared(tmp_path: Path) -> None:
    run = compared(tmp_path)
    rows = run.rows(GENERATIONS, columns=["text"]).head(40).with_row_index("place")
    concepts = pl.Series("concept", [[*SAID][place % 2] for place in range(rows.height)])
    said = pl.Series("text", [[*SAID.values()][place // 2 % 2] for place in range(rows.height)])
    texts = rows.drop("place", "text").with_columns(said, concepts)
    books = by_topic(run, texts)
    assert books.schema == pl.Schema(JUDGEMENTS.schema)
    about = [SAID[concept] == text for concept, text in zip(concepts, said, strict=True)]
    assert [rating == 2 for rating in books["concept_rating"]] == about == [rating != 0 for rating in books["concept_rating"]]
    with judge_server() as server:
        rated = {"books": books, "model": by_endpoint(texts, server.base_url, "judge", tmp_path)}
    table = ratings_of(rated, texts)
    assert table.columns[-4:] == ["concept_books", "fluency_books", "concept_model", "fluency_model"]
    assert table.drop_nulls("concept_model").height == table.height
    (row,) = agreements(rated).rows(named=True)
    expected = agreement(books, rated["model"]).row(0, named=True)
    assert (row["judge"], row["other"], row["aspect"], row["n"]) == ("books", "model", "concept", 40)
    assert row["kappa"] == expected["kappa"]


def test_every_concept_that_is_called_otherwise_is_a_topic_of_the_books() -> None:
    assert set(TOPICS.values()) <= {"astronomy", "economics", "gardening", "railways", "sea"}
