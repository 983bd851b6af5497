"""P1's figures beside an experiment's: each number against a plain computation, each conclusion by hand."""

import re
from itertools import product
from typing import Any

import polars as pl
import pytest
from scipy.stats import beta, spearmanr
from synthetic_tables import selection_settings, synthetic_features, synthetic_outcomes
from workflow_folder import ROOT

from saesteer.analysis.selection import selection
from saesteer.core.uncertainty import Interval
from saesteer.settings import Sweep, load_experiment
from saesteer.site.paper import PAPER_FIGURES, Measured, paper_markdown, same

EXPERIMENTS = ROOT / "config/experiments"


def experiment(name: str) -> Sweep:
    loaded = load_experiment(name, EXPERIMENTS)
    assert isinstance(loaded, Sweep)
    return loaded.model_copy(update={"selection": selection_settings()})


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    """With steep output scores, so that a threshold of .9 keeps several, and one of P1's example features."""
    steep = (pl.col("output_score") * 12).clip(0, 1)
    features, outcomes = (table.with_columns(output_score=steep) for table in (synthetic_features(), synthetic_outcomes()))
    example = features[:1].with_columns(layer=pl.lit(0, pl.UInt16), feature=pl.lit(725, pl.UInt32), input_score=0.83)
    settings = selection_settings()
    return {"features": pl.concat([features, example]), "outcomes": outcomes, "selection": selection(outcomes, settings)}


def page_of(name: str, tables: dict[str, pl.DataFrame]) -> str:
    return paper_markdown(name, experiment(name), *(tables[table] for table in ("features", "outcomes", "selection")))


def rows_of(page: str) -> dict[str, list[str]]:
    """What -> the other cells."""
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| "))
    return {what: rest for what, *rest in cells}


def numbers(cell: str) -> list[float]:
    return [float(text) for text in re.findall(r"-?[\d.]+", cell.replace("−", "-"))]


def test_numbers_are_those_of_plain_computations(tables: dict[str, pl.DataFrame]) -> None:
    shown, features = rows_of(page_of("gemma-2-2b", tables)), tables["features"]
    known = features.drop_nulls("input_score")
    assert numbers(shown["input score with depth (Spearman, feature by feature)"][2])[0] == pytest.approx(
        spearmanr(known["layer"], known["input_score"]).statistic, abs=0.005
    )
    n, k = known.height, known.filter((pl.col("input_score") > 0.5) & (pl.col("output_score") > 0.5)).height
    ends = beta.ppf(0.025, k, n - k + 1), beta.ppf(0.975, k + 1, n - k)  # Clopper and Pearson
    assert numbers(shown["share of features with both scores above 0.5"][2]) == pytest.approx([k / n, *ends], abs=0.005)
    successes = (("gen_success_20", "GenSuccess@20"), ("net_gen_success_20", "Net of unsteered texts"))
    for (measure, name), (first, where) in product(successes, ((0, ""), (5, ", late layers"))):
        outcomes = tables["outcomes"].filter(pl.col("rule") == "p1", pl.col("layer") >= first)
        kept = outcomes.filter(pl.col("output_score") >= 0.9)[measure].mean()
        ratio = numbers(shown[f"{name}{where}, kept at 0.9 over unfiltered"][2])
        assert ratio[0] == pytest.approx(kept / outcomes[measure].mean(), abs=0.005)
        assert ratio[1] < ratio[0] < ratio[2]
        assert numbers(shown[f"{name}{where}, kept at 0.9"][2])[0] == pytest.approx(kept, abs=0.005)
        curve = tables["selection"].filter(rule="p1", measure=measure, layers="late" if where else "all")
        row = curve.row(by_predicate=pl.col("threshold") == 0.9, named=True)
        above = [kept - row["random_mean"], row["low"] - row["random_high"], row["high"] - row["random_low"]]
        assert numbers(shown[f"{name}{where}, kept at 0.9 minus as many at random"][2]) == pytest.approx(above, abs=0.005)
    assert shown["input score of feature 0/725"] == ["0.822", "tables of example features", "0.830", "yes"]
    assert shown["input score of feature 0/14772"] == ["0.889", "tables of example features", "–", "–"]


def test_what_the_paper_does_not_give_of_a_model_says_so(tables: dict[str, pl.DataFrame]) -> None:
    pythia, other = rows_of(page_of("pythia-70m-deduped", tables)), rows_of(page_of("tiny", tables))
    given = [what for what, cells in pythia.items() if cells[0] not in ("paper", "no number in the paper")]
    assert given == [f"{score} score with depth (Spearman, feature by feature)" for score in ("input", "output")]
    assert {tuple(pythia[what][:2]) for what in given} == {("falls", "figure 9"), ("rises", "figure 9")}
    assert {(cells[0], cells[-1]) for what, cells in other.items() if what != "what"} == {("no number in the paper", "–")}


def test_every_figure_of_the_paper_has_a_row_and_a_place(tables: dict[str, pl.DataFrame]) -> None:
    published = pl.read_csv(PAPER_FIGURES).filter(pl.col("models").str.contains("gemma-2-2b"))
    assert published["place"].null_count() == 0
    assert published["quantity"].is_unique().all()
    shown = rows_of(page_of("gemma-2-2b", tables))
    assert len([cells for cells in shown.values() if cells[0] not in ("paper", "no number in the paper")]) == published.height


OF_FEATURE = {"says": None, "low": 0.822, "high": 0.822}
NUMBER, WORDS = {"says": None, "low": 0.5, "high": 0.6}, {"says": "above it", "low": 0.0, "high": None}


@pytest.mark.parametrize(
    ("published", "value", "interval", "expected"),
    [
        (NUMBER, 0.7, (0.55, 0.8), "yes"),
        (NUMBER, 0.7, (0.65, 0.8), "**no**"),
        (NUMBER, 0.2, (0.1, 0.4), "**no**"),
        (NUMBER, 0.55, None, "–"),
        (NUMBER, None, None, "–"),
        (WORDS, 0.7, (0.1, 0.8), "yes"),
        (WORDS, 0.2, (-0.1, 0.4), "open"),
        (WORDS, -0.2, (-0.3, -0.1), "**no**"),
        *((OF_FEATURE, value, None, "yes") for value in (0.813, 0.831)),  # within a hundredth
        *((OF_FEATURE, value, None, "**no**") for value in (0.80, 0.84)),
    ],
)
def test_conclusions(published: dict[str, Any], value: float | None, interval: tuple[float, float] | None, expected: str) -> None:
    quantity = "input_score 0/725" if published is OF_FEATURE else "all_ratio"
    assert same(published, Measured(quantity, "", value, interval and Interval(*interval))) == expected
