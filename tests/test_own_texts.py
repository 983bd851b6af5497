"""Concepts and labelled texts of one's own, as a file."""

from pathlib import Path

import polars as pl
import pytest

from saesteer.core.files import text_id
from saesteer.settings import LabelledTexts, SettingsError
from saesteer.sources.concept_texts import texts_of_file

NAMES = ("ships", "tea", "chess")


def rows(n: int = 6) -> pl.DataFrame:
    """n texts of each of four concepts, every other one after an opener."""
    concepts = [name for name in (*NAMES, "rain") for _ in range(n)]
    openers = ["In the end," if number % 2 else "So," for number in range(len(concepts))]
    return pl.DataFrame({"concept": concepts, "text": [f"{name} {number}." for number, name in enumerate(concepts)], "opener": openers})


ONE_MORE = pl.DataFrame({"concept": ["ships"], "text": ["A ship."], "opener": ["So,"]})


def source(path: Path) -> LabelledTexts:
    return LabelledTexts(kind="texts", texts=path, names=NAMES)


def written(frame: pl.DataFrame, path: Path) -> Path:
    {".parquet": frame.write_parquet, ".csv": frame.write_csv, ".jsonl": frame.write_ndjson}[path.suffix](path)
    return path


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_a_concepts_texts_are_its_own_and_the_others_are_negative(tmp_path: Path, ending: str):
    concepts, texts = texts_of_file(source(written(rows(), tmp_path / f"texts{ending}")), [], 4, 5, 0)
    assert concepts["concept"].to_list() == list(NAMES)
    for name in NAMES:
        of = texts.filter(concept_id=text_id(name))
        assert of.filter(positive=True)["output"].str.starts_with(name).sum() == 4
        negative = of.filter(positive=False)["output"].str.split(" ").list.first().to_list()
        assert len(negative) == 5
        assert set(negative) <= set(NAMES) - {name}
    assert set(texts["input"]) == {"In the end,", "So,"}


def test_texts_after_a_prompt_are_left_out_and_fewer_are_the_first_of_more(tmp_path: Path):
    path = written(rows(), tmp_path / "texts.csv")
    texts = texts_of_file(source(path), ["In the end,"], 3, 3, 0)[1]
    assert set(texts["input"]) == {"So,"}
    fewer = texts_of_file(source(path), ["In the end,"], 2, 3, 0)[1]
    assert not texts_of_file(source(path), [], 3, 3, 0)[1].equals(texts_of_file(source(path), [], 3, 3, 1)[1]), "seeds draw apart"
    assert texts.filter(positive=True, concept_id=text_id("tea")).head(2).equals(fewer.filter(positive=True, concept_id=text_id("tea")))
    with pytest.raises(SettingsError, match="concept 'ships' has 3 positive texts, but methods.n_positive asks for 4"):
        texts_of_file(source(path), ["In the end,"], 4, 3, 0)


def test_a_text_of_two_concepts_is_a_negative_text_of_neither(tmp_path: Path):
    both = pl.DataFrame({"concept": ["tea", "chess"], "text": "Over tea they played.", "opener": ["So,", "In the end,"]})
    first, other = (
        texts_of_file(source(written(frame, tmp_path / f"{number}.csv")), [], 7, 7, 0)[1]
        for number, frame in enumerate((pl.concat([rows(6), both, ONE_MORE]), pl.concat([ONE_MORE, both.reverse(), rows(6)])))
    )
    assert first.equals(other), "the order of rows does not matter"
    counts = {(text_id(name), name in ("tea", "chess")): 1 for name in NAMES}
    of_both = first.filter(output="Over tea they played.")
    assert {(concept, positive): n for concept, positive, n in of_both.group_by("concept_id", "positive").len().rows()} == counts


def test_texts_without_openers_and_what_is_refused(tmp_path: Path):
    path = tmp_path / "texts.csv"
    assert set(texts_of_file(source(written(rows().drop("opener"), path)), [], 3, 3, 0)[1]["input"]) == {""}
    with pytest.raises(SettingsError, match="has no column concept; it has text, opener"):
        texts_of_file(source(written(rows().drop("concept"), path)), [], 3, 3, 0)
    misspelt = LabelledTexts(kind="texts", texts=written(rows(), path), names=("tea", "chesss"))
    with pytest.raises(SettingsError, match="concept 'chesss'.* Did you mean 'chess'"):
        texts_of_file(misspelt, [], 3, 3, 0)
    with pytest.raises(SettingsError, match="row 2: a concept or a text is empty"):
        texts_of_file(source(written(pl.DataFrame({"concept": ["tea", None], "text": ["x", "y"]}), path)), [], 1, 1, 0)
    with pytest.raises(SettingsError, match=r"read from .parquet, .csv, .jsonl files"):
        texts_of_file(source(tmp_path / "texts.txt"), [], 1, 1, 0)
    path.write_text("concept,text\ntea,x\n\n")
    with pytest.raises(SettingsError, match="row 2: a concept or a text is empty"):
        texts_of_file(source(path), [], 1, 1, 0)
