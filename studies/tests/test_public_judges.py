"""Other judges beside the embedding judge, on texts of a comparison of methods."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from judge_server import judge_server
from report_folders import compared
from small_embedder import write_embedder
from workflow_folder import ROOT

from saesteer.analysis.acceptability import WORD
from saesteer.core.files import text_id
from saesteer.judge.embedding import load_embedder
from saesteer.judge.rate_embedding import concept_of, concept_ratings
from saesteer.rating.agreement import agreement
from saesteer.settings import Comparison, EmbeddingJudge, load_experiment
from saesteer.settings.methods import LabelledTexts
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.perplexity import PERPLEXITY
from studies.public.judges import TOPICS, agreements, by_embedding, by_endpoint, by_loss, by_topic, known_texts, ratings_of

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
    books = by_topic(texts)
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


def labelled_texts() -> LabelledTexts:
    """Those of the comparison on SmolLM2."""
    compared = load_experiment("smollm2-methods", ROOT / "config/experiments")
    assert isinstance(compared, Comparison)
    assert isinstance(compared.methods.concepts, LabelledTexts)
    return compared.methods.concepts


def test_each_known_text_is_about_one_concept_and_not_about_the_one_before() -> None:
    texts = known_texts(labelled_texts(), 0)
    labelled = pl.read_parquet(ROOT / "data/public/smollm2-135m/labelled.parquet")
    assert set(texts.group_by("concept", "concept_rating").len()["len"]) == {5}
    assert texts["concept"].n_unique() == labelled["concept"].n_unique() == 16
    for text, rows in texts.group_by("text"):
        of_text = labelled.filter(pl.col("text").str.replace_all(r"\s+", " ").str.starts_with(str(text[0])))["concept"]
        assert sorted(rows["concept_rating"]) == [0, 2]
        assert rows.filter(concept_rating=2)["concept"].to_list() == of_text.to_list()[:1]


def test_the_embedding_judge_rates_beside_the_unsteered_texts_of_the_concept(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path, [word for said in SAID.values() for word in said.split()])
    others = {
        "the sea": [" the fish ate", " a dog barked", " it rained here"],
        "war": [" an army", " some soldiers sang", " guns and fire"],
    }
    rows = [("unsteered", text_id(concept), text) for concept, texts in others.items() for text in texts]
    unsteered = pl.DataFrame([*rows, ("lora", text_id("war"), " peace")], schema=["method", "target", "text"], orient="row")
    judge = EmbeddingJudge(kind="embedding", model={"path": str(folder)})
    texts, embed = known_texts(labelled_texts(), 0).filter(pl.col("concept").is_in([*SAID])), load_embedder(folder).vectors
    rated = by_embedding(judge, embed, texts, unsteered)
    for concept in SAID:
        said = texts.filter(concept=concept)["text"].to_list()
        expected = concept_ratings(concept_of(concept, (), embed), said, others[concept])
        assert rated.filter(target=text_id(concept))["concept_rating"].to_list() == expected


def test_fluency_by_loss_is_what_the_multiples_of_unsteered_perplexity_say(tmp_path: Path) -> None:
    run = compared(tmp_path)
    text = pl.when(pl.int_range(pl.len()) % 5 == 0).then(pl.lit(" the guns of the guns of the guns of the guns")).otherwise("text")
    texts = run.rows(GENERATIONS, columns=["text"]).with_columns(text=text, concept=pl.lit("war"))
    losses = run.rows(PERPLEXITY, columns=["mean_nll"])
    rated = by_loss(texts, losses)
    assert rated["concept_rating"].null_count() == rated.height
    unsteered = losses.filter(method="unsteered")["mean_nll"].to_numpy().mean()
    rows = texts.join(losses, on=GENERATIONS.keys).join(rated, on=GENERATIONS.keys).drop_nulls("fluency_rating")
    times = np.exp(rows["mean_nll"].to_numpy() - unsteered)
    most = np.where(times <= 2, 2, np.where(times <= 4, 1, 0))
    assert len({*rows["fluency_rating"]}) == 3
    pairs = [list(pairwise(WORD.findall(text.lower()))) for text in rows["text"]]
    repeated = np.array([len({*of_text}) < 0.8 * len(of_text) for of_text in pairs])
    assert repeated.any()
    assert (rows["fluency_rating"].to_numpy() == np.where(repeated, 0, most)).all()
