"""The answers on the two public models: ratios against Fieller's formula, verdicts and cells by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from drawn_figures import thin
from scipy import stats

from saesteer.core.markdown import with_interval
from saesteer.core.tables import write_summary
from saesteer.core.uncertainty import RATINGS, Interval, mean_interval
from saesteer.settings import SettingsError
from saesteer.world.books.judge import concept_rating, load_text_judge, word_ids
from studies import ROOT
from studies.pages.answer_figure import data, draw
from studies.pages.answers import QUESTIONS, answers, answers_markdown, brute_force_pairs, by_books_judge, near, ratio_of_means
from studies.pages.results import COLUMNS, MODELS, TABLES, comparison, grid_ends, stored, update_results
from studies.pages.tables import (
    brute_force_markdown,
    carried_over_markdown,
    demonstration,
    differences,
    headlines_markdown,
    methods_markdown,
    picks_markdown,
    recommendations_markdown,
    tries_markdown,
)
from studies.public.judges import BOOKS, TOPICS
from studies.public.recommendations import BRUTE_FORCE, DEMONSTRATION, N_BRUTE_FORCE, SCHEMA


def scores(n: int, times: float, seed: int) -> np.ndarray:
    second = np.random.default_rng(seed).uniform(0.8, 1.6, n)
    noise = np.random.default_rng(seed + 1).normal(0, 0.1, n)
    return np.stack([times * second + noise, second], axis=1)


def fieller(pairs: np.ndarray, confidence: float) -> tuple[float, float]:
    """The ends of a ratio's interval by the closed formula (J. R. Stat. Soc. B 16, 1954, p. 175)."""
    n, (a, b), ((vaa, vab), (_, vbb)) = len(pairs), pairs.mean(axis=0), np.cov(pairs.T) / len(pairs)
    t = stats.t.ppf((1 + confidence) / 2, n - 1)
    middle, below = a * b - t**2 * vab, b**2 - t**2 * vbb
    reach = np.sqrt(middle**2 - below * (a**2 - t**2 * vaa))
    return (middle - reach) / below, (middle + reach) / below


def test_a_ratios_interval_is_fiellers() -> None:
    pairs = scores(400, 0.9, 0)
    ratio = ratio_of_means(pairs)
    assert ratio.value == pytest.approx(pairs[:, 0].mean() / pairs[:, 1].mean())
    assert ratio.interval == pytest.approx(fieller(pairs, 0.95), abs=2e-4)  # the intervals here are corrected for skewness
    few = ratio_of_means(scores(16, 0.9, 1))
    assert few.interval is not None
    for end, side in ((few.interval.low, "low"), (few.interval.high, "high")):
        differences = scores(16, 0.9, 1) @ [1, -end]
        assert getattr(mean_interval(differences, 0.95, Interval(-2 * end, 2.0)), side) == pytest.approx(0, abs=1e-6)
    assert ratio_of_means(np.zeros((5, 2))) == (None, None)


@pytest.mark.parametrize(("times", "n", "verdict"), [(1.0, 40, "holds"), (0.7, 40, "does not hold"), (0.9, 12, "open"), (1.0, 2, "open")])
def test_near_is_by_the_interval(times: float, n: int, verdict: str) -> None:
    assert near(scores(n, times, 3)) == verdict


def fresh_texts() -> pl.DataFrame:
    """Texts on four prompts: of brute force about the concept, of a pick half of them, of the unsteered model none. The first concept
    has no pick."""
    labelled = pl.read_parquet(ROOT / "data/public/smollm2-135m/labelled.parquet").group_by("concept", maintain_order=True).head(8)
    begins = {name: [" ".join(text.split()[:16]) for text in texts["text"]] for (name,), texts in labelled.group_by("concept")}
    rows = []
    for concept, other in zip(BRUTE_FORCE, [*BRUTE_FORCE[1:], BRUTE_FORCE[0]], strict=True):
        about, elsewhere = begins[concept], begins[other]
        said = {(N_BRUTE_FORCE, "1.2"): about[:4], (None, "1.2"): [*about[4:6], *elsewhere[:2]], (None, "0"): elsewhere[2:6]}
        rows += [
            (concept, per, factor, f"p{place}", text, 2)
            for (per, factor), texts in said.items()
            for place, text in enumerate(texts)
            if per is not None or concept != BRUTE_FORCE[0]
        ]
    return pl.DataFrame(rows, schema=["concept", "n_per_layer", "factor", "prefix_id", "text", "fluency_rating"], orient="row")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of results, the shipped experiment's numbers standing for both models'."""
    for name in ("results", "methods", "recommend"):
        (tmp_path / "docs" / name).mkdir(parents=True)
    for experiment in MODELS:
        shutil.copyfile(ROOT / "docs/results/tiny.json", tmp_path / f"docs/results/{experiment}.json")
        shutil.copytree(ROOT / "docs/results/tiny", tmp_path / f"docs/results/{experiment}")
        folder = tmp_path / f"docs/methods/{experiment}-methods"
        folder.mkdir()
        of_methods = {"sae_label_output_score": 0.4, "lora": 1.2, "unsteered": 0.0, "prompting": 1.5, "diffmean": 0.75}
        names = [*BRUTE_FORCE, *(f"c{n}" for n in range(10))]
        made = [(method, name, score, score == 0.4) for method, score in of_methods.items() for name in names]
        pl.DataFrame(made, schema=["method", "concept", "score", "abstains"], orient="row").write_csv(folder / "method_scores.csv")
        for name in ("methods", "method_differences", "method_damage", "method_equal_cost"):
            stored(ROOT, "tiny-methods", name).filter(layer=3).write_csv(folder / f"{name}.csv")
        rows = [
            {
                "concept": BRUTE_FORCE[n],
                "n_per_layer": per,
                "verdict": "try it",
                "fresh": fresh,
                "score_low": 0.7,
                "score_high": 0.7 + 0.1 * n,
            }
            | {"layer": 6, "feature": 548, "factor": "1.2"}
            for n in range(6)
            for per, fresh in ((None, 1.0), (N_BRUTE_FORCE, 1.25))
        ]
        rows[0] |= {"fresh": None, "verdict": "don't", "feature": None}
        pl.DataFrame(rows, schema=SCHEMA).write_csv(tmp_path / f"docs/recommend/{experiment}.csv")
        fresh_texts().write_parquet(tmp_path / f"docs/recommend/{experiment}.parquet")
    return tmp_path


def scores_by_topic() -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """Of `fresh_texts`, by the rule in plain Python: concept -> mean score of the pick, or 0, and of brute force; and unsteered."""
    judge, topics = load_text_judge(BOOKS / "judge"), json.loads((ROOT / BOOKS / "topics.json").read_text())
    scored: dict[tuple[str, int | None, str], list[float]] = {}
    for concept, per, factor, _, text, fluency in fresh_texts().iter_rows():
        rating = concept_rating(judge, word_ids(judge, [text])[0], topics.index(TOPICS.get(concept, concept)))
        scored.setdefault((concept, per, factor), []).append(2 / (1 / rating + 1 / fluency) if rating else 0.0)
    means = {key: sum(scores) / len(scores) for key, scores in scored.items()}
    steered = {name: (means.get((name, None, "1.2"), 0.0), means[name, N_BRUTE_FORCE, "1.2"]) for name in BRUTE_FORCE}
    return steered, {name: means[name, None, "0"] for name in BRUTE_FORCE[1:]}


def test_pages_show_both_models(root: Path) -> None:
    heading, _, line, _ = recommendations_markdown(root).splitlines()
    steered, unsteered = scores_by_topic()
    gains = np.array([steered[name][0] - unsteered[name] for name in BRUTE_FORCE[1:]])
    gain, (below, above) = gains.mean(), mean_interval(gains, 0.95, Interval(-2.0, 2.0))
    assert heading.startswith("| model | try | concepts | use | try it | don't | interval holds |")
    assert line.startswith("| SmolLM2-135M | second | 6 | 0 | 5 | 1 | 60.0% [14.7, 94.7] | 1.00 [0.48, 1.52] |")
    assert line.endswith(f"| {with_interval(gain, below, above)}, n = 5 |")
    first, second, *_ = brute_force_markdown(root).splitlines()[2:]
    (_, brute), (pick, more) = (steered[name] for name in BRUTE_FORCE[:2])
    assert first == f"| SmolLM2-135M | second | the sea | – | – | – | 6/548 × 1.2 | 1.25 | {brute:.2f} |"
    assert second == f"| SmolLM2-135M | second | cooking | 6/548 × 1.2 | 1.00 | {pick:.2f} | 6/548 × 1.2 | 1.25 | {more:.2f} |"
    picks = picks_markdown(root).splitlines()
    assert picks[0] == "| model | try | concepts | pick | pick − unsteered | pick − a prompt | pick − DiffMean | pick − LoRA |"
    cells = [line.removesuffix(" |").split(" | ")[1:] for line in picks[2:]]
    low, high = mean_interval(np.array([1.0, 1, 1, 1, 1, 0]), 0.95, RATINGS)  # one concept has no pick
    assert [of_model[1:3] for of_model in cells] == [["6", f"0.83 [{low:.2f}, {high:.2f}]"]] * 2
    assert [[cell.split(" ")[0] for cell in of_model[3:]] for of_model in cells] == [["0.83", "−0.67", "0.08", "−0.37"]] * 2
    lines = methods_markdown(root).splitlines()
    assert lines[0].startswith("| method | SmolLM2-135M | Gemma 3 270M | at most 0.1 nats, SmolLM2-135M |")
    scores = ("1.52 [1.36, 1.67]", "1.51 [1.28, 1.69]", "1.54 [1.37, 1.69]")
    assert f"| LoRA | {' | '.join(score for score in scores for _ in MODELS)} | 0.20 / 0.20 |" in lines


def test_two_tries_are_compared_on_the_same_concepts(root: Path) -> None:
    assert tries_markdown(root).count("\n") == 1  # the heading: there was one try
    first, second = root / "docs/recommend/first", root / "docs/recommend"
    first.mkdir()
    pl.read_csv(second / "smollm2.csv", schema=SCHEMA).with_columns(fresh=pl.lit(0.5)).write_csv(first / "smollm2.csv")
    shutil.copyfile(second / "smollm2.parquet", first / "smollm2.parquet")
    (line,) = tries_markdown(root).splitlines()[2:]
    differences = np.array([-0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    expected = with_interval(float(differences.mean()), *mean_interval(differences, 0.95, Interval(-2.0, 2.0)))
    assert line.startswith("| SmolLM2-135M | of brute force | 6 | 0.50 [")
    assert f"| {expected} | 0.00 [" in line


def test_a_comparisons_tables_are_taken_over_all_or_none(tmp_path: Path) -> None:
    made, name = thin("one concept"), comparison("smollm2")
    with pytest.raises(SettingsError, match=r"docs/results/tiny\.json is missing: run `make grammar`"):
        update_results(tmp_path)
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "docs/results/tiny.json").write_text("{}")
    for table in TABLES[name]:
        assert not (tmp_path / "docs/methods").exists()
        write_summary(table, made[table.name], tmp_path / "data" / name / table.path)
        update_results(tmp_path)
    scores = stored(tmp_path, name, "method_scores")
    assert scores.columns == list(COLUMNS["method_scores"])
    assert scores.height == made["method_scores"].height


def test_a_difference_is_shown_in_the_order_of_its_line_at_each_layer() -> None:
    ends = {"mean": 0.4, "low": 0.1, "high": 0.75}
    pairs = pl.DataFrame([{"layer": layer, "method": "diffmean", "other": "sae_label"} | ends for layer in (6, 3)])
    assert list(differences(pairs, "diffmean", "sae_label")) == ["0.40 [0.10, 0.75]"] * 2
    assert list(differences(pairs, "sae_label", "diffmean")) == ["−0.40 [−0.75, −0.10]"] * 2
    assert list(differences(pairs, "lora", "diffmean")) == []


def test_what_carries_over_has_a_column_a_model(root: Path) -> None:
    shutil.copyfile(ROOT / "docs/results/tiny.json", root / "docs/results/tiny.json")
    (root / "docs/methods/gemma-3-270m-methods/method_differences.csv").unlink()
    lines = carried_over_markdown(root).splitlines()
    assert lines[0] == "| finding | the grammar's model | SmolLM2-135M | Gemma 3 270M |"
    assert lines[3] == "| The filter's net gain within layers | 1.21× [0.92, 1.59] | 1.21× [0.92, 1.59] | 1.21× [0.92, 1.59] |"
    assert "| LoRA − a prompt | not run yet | −0.02 [−0.26, 0.20] | not run yet |" in lines
    assert "| The feature nearest to DiffMean − the labelled feature | not run yet | – | not run yet |" in lines


def test_choices_are_counted_by_their_place_in_the_grid() -> None:
    """Feature 2's second half chose nothing."""
    factors = [(1, "0", "3", "0.1"), (1, "1", "6", "1.6"), (2, "0", "2", "1.6"), (2, "1", None, None), (3, "0", "1", "0.5")]
    keys = [{"layer": 2, "feature": feature, "rule": "p1", "reported_on": half, "factor": factor} for feature, half, factor, _ in factors]
    strengths = pl.DataFrame([key | {"multiple": multiple} for key, (*_, multiple) in zip(keys, factors, strict=True)])
    success = (0.5, 8.0, 10.0, None, 3.0)
    best = pl.DataFrame([key | {"net_gen_success_20": net, "fluency_rating": 1.0} for key, net in zip(keys, success, strict=True)])
    ends = grid_ends(strengths, best)
    assert ends.select("place", "n", "share", "net_gen_success_20").rows() == [
        ("smallest", 1, 0.25, 0.5),
        ("within", 1, 0.25, 3.0),
        ("largest", 2, 0.5, 9.0),
    ]


def test_the_figure_has_a_curve_and_the_methods_of_each_model(root: Path) -> None:
    rows = data(root)
    n_thresholds = rows.filter(panel="threshold", model="SmolLM2-135M")["threshold"].n_unique()
    assert rows.filter(panel="threshold").height == 2 * n_thresholds > 10
    registered = rows.filter(panel="threshold", threshold=0.3)["times_mean"].unique()
    assert registered.to_list() == [pytest.approx(1.58, abs=0.01)]  # the gain in metrics.json
    left, right = draw(rows).axes
    assert [line.get_label() for line in left.get_lines()[:2]] == list(MODELS.values())
    within = rows.filter(panel="within layers").select("model", "times_mean").rows()
    assert within == [(model, pytest.approx(1.21, abs=0.01)) for model in MODELS.values()]
    assert right.get_yticklabels()[0].get_text() == "Prompt, searched"
    for experiment in MODELS:
        shutil.rmtree(root / f"docs/methods/{experiment}-methods")
    shutil.rmtree(root / "docs/results/smollm2")
    (alone,) = draw(data(root)).axes
    assert [line.get_label() for line in alone.get_lines()[:1]] == ["Gemma 3 270M"]


def test_the_demonstration_shows_what_is_kept_and_escapes_what_a_model_wrote(root: Path) -> None:
    row = {"layer": 28, "feature": 7, "factor": "1.5", "prompt": "People say that", "unsteered": " a | b", "steered": " <b>the sea</b>."}
    pl.DataFrame([row], schema=DEMONSTRATION).write_csv(root / "docs/recommend/demonstration.csv")
    heading, _, line = demonstration(root).splitlines()
    assert heading == "| prompt | unsteered | feature 28/7, factor 1.5 |"
    assert line.count("|") == 5
    assert "<b>" not in line
    assert "the sea" in line


def test_each_question_has_a_verdict_on_each_model(root: Path) -> None:
    cells = list(answers(root, "smollm2"))
    assert len(cells) == len(QUESTIONS)
    assert cells[0] == "**holds**: ρ −0.93 (p = 0.002) and 0.98 (p < .001)"
    assert cells[1].startswith("**open**: 1.50× [0.96, 2.35] as many as by chance, 3.0% [1.2, 6.1]")
    assert cells[2] == "**open**: 1.58× [1.17, 2.14], within layers 1.21× [0.92, 1.59] (p = 0.109); in 0 of 12 variants; 34 of 240 features"
    assert cells[3].startswith("**open**: 0.96× [0.48, 1.90]")
    assert cells[4].startswith("**does not hold**: 0.33× [")
    pairs = brute_force_pairs(by_books_judge(root, "smollm2", "second"))
    assert pairs.tolist() == pytest.approx(np.array([*scores_by_topic()[0].values()]))
    assert cells[5].startswith(f"second try **{near(pairs)}**: {pairs[:, 0].mean() / pairs[:, 1].mean():.2f}× [")
    for file in ("results/gemma-3-270m.json", "recommend/gemma-3-270m.csv", "methods/gemma-3-270m-methods/method_scores.csv"):
        (root / "docs" / file).unlink()
    assert list(answers(root, "gemma-3-270m")) == ["not run yet"] * len(QUESTIONS)
    assert headlines_markdown(root).startswith("## SmolLM2-135M\n\n| what | measured | holds |\n")
    assert [line.split(" | ")[0] for line in recommendations_markdown(root).splitlines()[2:]] == ["| SmolLM2-135M"]
    lines = answers_markdown(root).splitlines()
    assert lines[0] == "| question | P1, on Gemma-2 2B and 9B | SmolLM2-135M | Gemma 3 270M |"
    assert len(lines) == 2 + len(QUESTIONS)
