"""The choice of a factor and a concept's score: by hand, against a slow loop over texts, in any order; what is refused."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from method_rows import LAYER, Ratings, method_settings, rows_of, scored, shuffled, synthetic_rows
from oracles.method_protocol import Text, concept_result

from saesteer.core.tables import validate
from saesteer.methods.compare.protocol import ProtocolError, prompt_halves, row_of
from saesteer.methods.compare.tables import METHOD_CHOICES, METHOD_HALVES, METHOD_SCORES
from saesteer.settings import registry
from saesteer.settings.registry import Method

GOOD, FAIR, BAD = (2, None, 2), (1, None, 2), (0, None, 2)  # harmonic means 2, 4/3, 0
UNREAD = (None, None, 2)
FOUR = ("p0", "p1", "p2", "p3")
METHODS = ("unsteered", "diffmean", "sae_label")
SETTINGS = method_settings(methods=METHODS)


def texts_of(method: str, factor: str, *ratings: Ratings, concept: str = "sea") -> list[Text]:
    return [(method, concept, factor, prompt, one) for prompt, one in zip(FOUR, ratings, strict=True)]


UNSTEERED = texts_of("unsteered", "1", BAD, FAIR, BAD, FAIR)
# Even prompts (half 0) like factor 2 best, odd ones (half 1) factor 1; each reports at the other's choice.
DIFFMEAN = [
    *texts_of("diffmean", "0.5", BAD, BAD, BAD, BAD),
    *texts_of("diffmean", "1", FAIR, GOOD, BAD, FAIR),
    *texts_of("diffmean", "2", GOOD, BAD, FAIR, BAD),
]


def scores(texts: list[Text], choice: str = "held_out", score: str = "harmonic_mean", abstaining: tuple[str, ...] = ()) -> pl.DataFrame:
    rows = rows_of(texts, [(name, "sea") for name in abstaining])
    tables = scored(rows, FOUR, SETTINGS.model_copy(update={"factor_choice": choice, "score": score}))
    for table in (METHOD_HALVES, METHOD_CHOICES, METHOD_SCORES):
        validate(table, tables[table.name], table.name)
    return tables["method_scores"]


def one(texts: list[Text], method: str, **options: str) -> dict[str, object]:
    return scores(texts, **options).row(by_predicate=pl.col("method") == method, named=True)


def test_held_out_by_hand() -> None:
    """Half 0 (p0, p2): means 0, 2/3, 5/3 at .5, 1, 2, so 2, which half 1 reports: 0. Half 1: 0, 5/3, 0, so 1; half 0 reports 2/3. Other
    choices, unrated texts and ties: the slow loops below."""
    row = one(UNSTEERED + DIFFMEAN, "diffmean")
    assert row["factors"] == ["1", "2"]  # reported on half 0, on half 1
    assert row["score"] == pytest.approx((2 / 3 + 0) / 2)
    assert (row["n_choices"], row["n_at_smallest"], row["n_at_largest"], row["n"], row["n_missing"], row["n_halves"]) == (2, 0, 1, 4, 0, 2)
    assert row["concept_rating"] == pytest.approx(((1 + 0) / 2 + 0) / 2)
    assert row["fluency_rating"] == 2
    assert row["instruction_rating"] is None
    assert row["log_perplexity"] == pytest.approx(((1 + 1) + (1 + 2)) / 2)
    assert row["change"] == pytest.approx(3.0 * 1.5)
    assert row["relative_change"] == pytest.approx(3.0 * 1.5 / 12.0)


def test_kinds_of_score_by_hand() -> None:
    """One factor; ratings (2, 1), (1, 2), (0, 2), (1, unread)."""
    texts = texts_of("unsteered", "1", (2, None, 1), (1, None, 2), (0, None, 2), (1, None, None))
    assert one(texts, "unsteered", choice="same_texts")["score"] == pytest.approx((4 / 3 + 4 / 3 + 0) / 3)
    product = one(texts, "unsteered", choice="same_texts", score="product_of_means")
    assert product["score"] == pytest.approx((1 + 0.5 + 0) / 3 * (0.5 + 1 + 1) / 3)  # the mean of products is 1/3
    means = one(texts, "unsteered", choice="same_texts", score="harmonic_mean_of_means")
    assert means["score"] == pytest.approx(2 / (1 / (3 / 3) + 1 / (5 / 3)))
    assert (means["n"], means["n_missing"]) == (4, 1)


def test_p2s_score_is_the_largest_over_strengths_of_the_product_of_means() -> None:
    """P2's scale is 1 to 10, made [0, 1]; ours 0 to 2. At strength 10 half of the texts are on the concept and broken, half fluent and off
    it: means .5 and .5, so .25, where every text's own product is 0. At 20: 1 and .25, so .25: of equals the smaller strength."""
    texts = [*UNSTEERED, *texts_of("diffmean", "10", (2, None, 0), (0, None, 2), (2, None, 0), (0, None, 2))]
    texts += texts_of("diffmean", "20", (2, None, 1), (2, None, 0), (2, None, 1), (2, None, 0))
    row = one([*texts, *texts_of("diffmean", "30", *[(2, None, 0)] * 4)], "diffmean", choice="same_texts", score="product_of_means")
    assert (row["score"], row["factors"]) == (0.25, ["10"])


def test_an_abstaining_method_counts_as_the_unsteered_text_of_the_same_half() -> None:
    row = one(UNSTEERED, "sae_label", abstaining=("sae_label",))  # type: ignore[arg-type]
    assert (row["abstains"], row["reason"], row["factors"]) == (True, "no feature", [None, None])
    assert row["score"] == pytest.approx((0 + 4 / 3) / 2)
    assert (row["n"], row["n_choices"], row["concept_rating"], row["change"]) == (0, 0, None, None)
    first = one(UNSTEERED, "sae_label", choice="first_half", abstaining=("sae_label",))  # type: ignore[arg-type]
    assert first["score"] == pytest.approx((0 + 4 / 3) / 2)  # p2 and p3, not p0 and p1
    uneven = texts_of("unsteered", "1", GOOD, GOOD, BAD, FAIR)
    assert one(uneven, "sae_label", choice="first_half", abstaining=("sae_label",))["score"] == pytest.approx(2 / 3)  # type: ignore[arg-type]


def test_one_factor_is_no_choice_and_prompts_have_no_ends() -> None:
    texts = [*UNSTEERED, *texts_of("diffmean", "2", UNREAD, FAIR, UNREAD, FAIR)]
    row = one(texts, "diffmean")
    assert (row["factors"], row["n_choices"], row["score"]) == (["2", "2"], 0, pytest.approx(4 / 3))
    prompts = [*UNSTEERED, *texts_of("prompting", "1", BAD, BAD, BAD, BAD), *texts_of("prompting", "3", GOOD, GOOD, GOOD, GOOD)]
    table = scored(rows_of(prompts), FOUR, method_settings(methods=("unsteered", "prompting")))["method_scores"]
    row = table.row(by_predicate=pl.col("method") == "prompting", named=True)
    assert (row["factors"], row["n_choices"], row["n_at_smallest"], row["change"]) == (["3", "3"], 0, 0, None)


def test_prompts_are_split_in_the_order_of_their_file() -> None:
    ids = ("c", "a", "b", "e", "d")
    assert prompt_halves(ids, "held_out") == {"c": 0, "a": 1, "b": 0, "e": 1, "d": 0}
    assert prompt_halves(ids, "first_half") == {"c": 0, "a": 0, "b": 0, "e": 1, "d": 1}
    assert set(prompt_halves(ids, "same_texts").values()) == {0}
    ten = prompt_halves([str(i) for i in range(10)], "first_half")
    assert [ten[str(i)] for i in range(10)] == [0] * 5 + [1] * 5  # P4: the first five choose
    for bad in (("a",), ("a", "b", "a")):
        with pytest.raises(ProtocolError, match="two prompts at least"):
            prompt_halves(bad, "held_out")


RATING = st.sampled_from((None, 0, 1, 2))


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[list[Text], list[tuple[str, str]], bool]:
    """Small tables: three methods, two concepts, up to three factors, four prompts, ratings that may be missing, fits that may abstain."""
    instructed = draw(st.booleans())
    texts, abstaining = [], []
    for method in METHODS:
        factors = ["1"] if method == "unsteered" else draw(st.sampled_from((["1"], ["0.5", "10"], ["0.5", "2", "10"])))
        for concept in ("sea", "weather"):
            if method != "unsteered" and draw(st.integers(0, 3)) == 0:
                abstaining.append((method, concept))
                continue
            for factor in factors:
                for prompt in FOUR:
                    instruction = draw(st.sampled_from((0, 1, 2))) if instructed else None
                    texts.append((method, concept, factor, prompt, (draw(RATING), instruction, draw(RATING))))
    return texts, abstaining, instructed


@pytest.mark.slow
@settings(max_examples=60)
@given(
    comparisons(),
    st.sampled_from(("held_out", "first_half", "same_texts")),
    st.sampled_from(("harmonic_mean", "harmonic_mean_of_means", "product_of_means")),
    st.integers(0, 1000),
)
def test_scores_are_the_slow_loops_in_any_order(
    drawn: tuple[list[Text], list[tuple[str, str]], bool], choice: str, score: str, seed: int
) -> None:
    texts, abstaining, _ = drawn
    rows = rows_of(texts, abstaining)
    wanted = SETTINGS.model_copy(update={"factor_choice": choice, "score": score})
    tables, again = scored(rows, FOUR, wanted), scored(shuffled(rows, seed), FOUR, wanted)
    assert all(tables[name].equals(again[name]) for name in tables)
    for row in tables["method_scores"].iter_rows(named=True):
        expected = concept_result(texts, row["method"], row["concept"], FOUR, choice, score, "unsteered")
        assert row["score"] == pytest.approx(expected.pop("score"), abs=1e-12), row
        assert {name: row[name] for name in expected} == expected


def test_a_whole_table_does_not_depend_on_the_order_of_rows_or_of_other_methods() -> None:
    wanted = method_settings(methods=("unsteered", "diffmean", "sae_label", "prompting"))
    prompts = tuple(f"{number:02}" for number in range(20))  # sums of many floats: their order shows in the last bits
    rows = synthetic_rows(wanted, 3, prompts)
    tables, again = (scored(some, prompts, wanted) for some in (rows, shuffled(rows, 5)))
    assert all(tables[name].equals(again[name]) for name in tables)
    fewer = replace(rows, texts=rows.texts.filter(pl.col("method") != "diffmean"), fits=rows.fits.filter(pl.col("method") != "diffmean"))
    left = scored(fewer, prompts, wanted)["method_scores"]
    assert left.equals(tables["method_scores"].filter(pl.col("method") != "diffmean"))


def test_what_cannot_be_compared_is_refused() -> None:
    rows = rows_of(UNSTEERED + DIFFMEAN)
    with pytest.raises(ProtocolError, match="prompt that is not among the experiment's 3.*p3"):
        scored(rows, FOUR[:3], SETTINGS)
    with pytest.raises(ProtocolError, match="no method .* the key 'nonsense'"):
        row_of("nonsense")
    without = replace(rows, texts=rows.texts.filter(pl.col("method") != "diffmean"))
    with pytest.raises(ProtocolError, match="no text of .*diffmean"):
        scored(without, FOUR, SETTINGS)
    gap = (pl.col("method") == "diffmean") & (pl.col("factor") == "2") & pl.col("prefix_id").is_in(["p0", "p2"])
    with pytest.raises(ProtocolError, match="'factor': '2'.* in one half"):
        scored(replace(rows, texts=rows.texts.filter(~gap)), FOUR, SETTINGS)
    orphan = replace(rows, fits=rows.fits.filter(pl.col("method") != "diffmean"))
    with pytest.raises(ProtocolError, match="a fit that table fits does not"):
        scored(orphan, FOUR, SETTINGS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("toy,Toy,ours,toy.fit,,texts,guess,addition,1", "line 2: text_use 'guess' is unknown; known: choice"),
        ("toy,Toy,ours,toy.fit,sae eyes,texts,choice,addition,1", "line 2: needs 'eyes' is unknown"),
        ("toy,Toy,ours,toy.fit,texts,addition,1", "line 2: it has not as many values as the first line has names: name, title"),
    ],
)
def test_a_row_of_the_registry_that_cannot_be_read_is_refused_by_its_line(line: str, message: str, tmp_path: Path) -> None:
    header = registry.TABLE.read_text(encoding="utf-8").splitlines()[0]
    (tmp_path / "methods.csv").write_text(f"{header}\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        registry.read_methods(tmp_path / "methods.csv")


def test_a_toy_method_and_a_new_version_are_found_by_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Method("toy", "Toy", "ours", "toy.fit", (), "texts", "choice", "addition", 2)
    monkeypatch.setattr(registry, "METHODS", (*registry.METHODS, toy))
    assert row_of("toy-2") is toy
    assert [registry.key_of(name) for name in ("toy", "toy-2", "diffmean", "none")] == ["toy-2", "toy-2", "diffmean", "none"]
    tables = scored(rows_of([*UNSTEERED, *texts_of("toy-2", "1", *[GOOD] * 4)]), FOUR, method_settings(methods=("unsteered", "toy")))
    assert tables["method_scores"].filter(method="toy-2", layer=LAYER)["score"].to_list() == [2.0]
