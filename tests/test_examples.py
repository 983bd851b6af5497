"""The rule that chooses examples, and the text that is shown."""

import io
import re

import polars as pl
import pytest
from synthetic_tables import (
    PREFIXES,
    main_tables,
    selection_settings,
    synthetic_examples,
    synthetic_features,
    synthetic_generations,
    synthetic_outcomes,
)

from saesteer.analysis.examples import example_features, examples
from saesteer.analysis.tables import EXAMPLES
from saesteer.core.files import text_id
from saesteer.core.tables import validate
from saesteer.figures import examples as figure
from saesteer.figures.definition import Options
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

FACTORS = ("0", "2", "4")


def test_groups_are_spread_over_their_ranks() -> None:
    """4 layers x 3, scores by rank; late from 2. Early has ranks 0 to 5: 3 of them are 0, 2.5 -> 2, 5 (numpy rounds half to even)."""
    features = synthetic_features(4, 3).sort("layer", "feature").with_columns(output_score=pl.int_range(12) / 12)
    chosen = example_features(features, 6, late_layers_from=2)
    ranks = features.with_row_index().join(chosen, on=["layer", "feature"], how="semi")["index"].to_list()
    assert ranks == [0, 2, 5, 6, 8, 11]


@pytest.mark.parametrize(("n", "late_from", "n_early", "n_late"), [(5, 2, 2, 3), (8, 3, 5, 3), (6, 99, 6, 0), (6, 0, 0, 6), (50, 2, 6, 6)])
def test_a_small_group_leaves_its_places(n: int, late_from: int, n_early: int, n_late: int) -> None:
    chosen = example_features(synthetic_features(4, 3), n, late_from)
    late = (chosen["layer"] >= late_from).sum()
    assert (chosen.height - late, late) == (n_early, n_late)
    assert chosen.is_duplicated().sum() == 0


def test_texts_are_the_first_prefix_at_the_held_out_factor() -> None:
    features = synthetic_features(2, 4, seed=3)
    outcomes = synthetic_outcomes(2, 4, FACTORS, seed=3).sort("rule", "layer", "feature")
    outcomes = outcomes.with_columns(factors=pl.Series([["4", "2"]] * 6 + [[None, "2"]] * 2 + [["2", "4"]] * 8))
    generations = synthetic_generations(features, FACTORS)
    arguments = (synthetic_examples(features), generations, PREFIXES, "capped", 8, 1)
    rows = validate(EXAMPLES, examples(outcomes, features, *arguments), "test")
    assert rows["factor"].to_list() == ["4"] * 6 + [None] * 2
    for row in rows.iter_rows(named=True):
        texts = generations.filter(layer=row["layer"], feature=row["feature"], prefix_id=text_id(PREFIXES[0]), sample=0)
        assert row["unsteered"] == texts.filter(factor="0")["text"].item()
        assert row["steered"] == (texts.filter(factor="4")["text"].item() if row["factor"] else None)
    assert rows["prefix"].unique().to_list() == [PREFIXES[0]]


def test_an_example_links_to_its_features_page() -> None:
    """In the PDF, from the cell that names the feature; examples of a layer that Neuronpedia does not have link nowhere."""
    shown = main_tables(2, 4, FACTORS)["examples"]
    options = Options("capped", selection_settings())
    body = io.BytesIO()
    figure.draw(figure.data({"examples": shown}, options)).savefig(body, format="pdf")
    linked = re.findall(rb"/URI \(([^)]*)\)", body.getvalue())
    assert sorted(url.decode() for url in linked) == sorted(shown["page"].drop_nulls())
    assert len(linked) == shown.filter(layer=1).height > 0


LONG = [f"▁w{i}" for i in range(40)]


@pytest.mark.parametrize(
    ("context", "index", "expected"),
    [
        (["▁A", "▁ship", "s", ".", "<0x0A>"], 1, "A [ship]s.<0x0A>"),
        (["<bos>", "▁A", "▁ship"], 1, "[A] ship"),
        (["<bos>", "▁A", "▁sh", "ip"], 3, "A sh[ip]"),
        (["<0x0A>", "▁A"], 1, "<0x0A> [A]"),
        (LONG, 20, f"… {' '.join(f'w{i}' for i in range(8, 20))} [w20] {' '.join(f'w{i}' for i in range(21, 33))} …"),
        (LONG[7:], 13, f"… {' '.join(f'w{i}' for i in range(8, 20))} [w20] {' '.join(f'w{i}' for i in range(21, 33))} …"),
        (LONG, 0, f"[w0] {' '.join(f'w{i}' for i in range(1, 13))} …"),
    ],
)
def test_the_largest_activations_token_is_marked(context: list[str], index: int, expected: str) -> None:
    features = synthetic_features(1, 2)
    outcomes = synthetic_outcomes(1, 2, FACTORS)
    example = {"text_id": "0" * 16, "token": "▁ship", "token_id": 1, "max_value": 1.0}
    other, top = {"rank": 1, "token_index": 0, "context": ["▁No"]}, {"rank": 0, "token_index": index, "context": context}
    shown = pl.Series([[example | other, example | top], []], dtype=MAX_ACTIVATING_EXAMPLES.columns["examples"].dtype)
    local = synthetic_examples(features).with_columns(examples=shown)
    arguments = (local, synthetic_generations(features, FACTORS), PREFIXES, "capped", 2, 0)
    rows = examples(outcomes, features, *arguments)
    assert rows["top_context"].to_list() == [expected, None]
