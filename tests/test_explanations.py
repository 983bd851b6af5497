"""Labels of features by a judge: what is shown and what is held out, detection, what a language model is asked and what becomes of its
answers, and the step in a finished experiment."""

import re
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from judge_server import Fault, judge_server
from judge_texts import KEY, stored
from scipy.stats import beta
from typer.testing import CliRunner
from workflow_folder import Folder

from saesteer.analysis.candidates import candidates
from saesteer.analysis.label_evidence import AFTER, BEFORE, Corpus, Evidence, balanced_accuracy, detection_interval, evidence_of, texts_with
from saesteer.analysis.summaries import with_labels
from saesteer.cli import app
from saesteer.core.counter_rng import text_keys
from saesteer.judge.naming import detection_question, name_question
from saesteer.judge.parse import LONGEST_NAME, Rating, Unparsed, Words, parse
from saesteer.recommendations.candidates import picked_features
from saesteer.recommendations.question import RecommendRequest
from saesteer.run import Run, open_run
from saesteer.settings import ExplanationSettings
from saesteer.settings.load import load_workflow, read_yaml
from saesteer.site.feature_pages import _with_provenance
from saesteer.site.labels import provenance
from saesteer.sources.corpus import text_ids
from saesteer.steps import explanations
from saesteer.steps.activations import ACTIVATIONS
from saesteer.steps.concepts import CONCEPTS
from saesteer.steps.explanations import EXPLANATIONS
from saesteer.steps.features import FEATURES
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

WORDS = [f"w{number}" for number in range(200)]


def example(number: int, at: int = 3) -> dict[str, Any]:
    return {"text_id": f"t{number}", "token_index": at, "context": [f"▁{word}" for word in [f"x{number}", *WORDS[:99]]]}


def text(token: str) -> str:
    return token.replace("▁", " ")


def corpus(n: int, active: set[str]) -> Corpus:
    ids = [f"t{number}" for number in range(n)]
    return Corpus(ids, text_keys(ids), lambda name: [f"▁of_{name}", *WORDS[:50]], {7: frozenset(active)})


def evidence(n: int, n_shown: int = 5, n_held_out: int = 4, seed: int = 0, feature: int = 7) -> Evidence:
    row = {"layer": 2, "feature": feature, "examples": [example(number) for number in range(n)]}
    return evidence_of(row, ["▁sea"], corpus(60, {f"t{number}" for number in range(30)}), n_shown, n_held_out, seed, text)


def test_what_is_shown_is_not_held_out_and_the_largest_of_the_rest_are_shown() -> None:
    one = evidence(12)
    bare = [shown.replace("«", "").replace("»", "") for shown in one.shown]
    assert (len(bare), len(one.active), len(one.inactive)) == (5, 4, 4)
    assert not {*bare} & {*one.active}
    numbers = [[int(re.match(r"x(\d+) ", line)[1]) for line in lines] for lines in (bare, one.active)]
    assert numbers[0] == [number for number in range(12) if number not in numbers[1]][:5]
    assert all(re.match(r"of_t(3\d|4\d|5\d)|w", line) for line in one.inactive), "texts 0 to 29 activate the feature"
    assert "«w2»" in one.shown[0]
    assert one.tokens == ("sea",)


def test_draws_are_the_features_own_and_half_of_few_examples_are_held_out() -> None:
    assert evidence(12) == evidence(12)
    assert len({evidence(12, seed=seed).active for seed in range(5)}) > 1
    assert len({evidence(12, feature=feature).active for feature in range(5)}) > 1
    assert [(len(evidence(n).shown), len(evidence(n).active)) for n in range(4)] == [(0, 0), (1, 0), (1, 1), (2, 1)]


def test_equal_excerpts_are_one_and_an_excerpt_is_a_piece_of_one_line() -> None:
    same = [{**example(0), "text_id": f"t{number}"} for number in range(9)]
    one = evidence_of({"layer": 0, "feature": 7, "examples": same}, [], None, 5, 4, 0, text)
    assert (len(one.shown), one.active, one.inactive) == (1, (), ())
    repeated = [{**example(number), "text_id": f"t{place}"} for place, number in enumerate((0, 1, 2, 0))]
    largest_first = evidence_of({"layer": 0, "feature": 7, "examples": repeated}, [], None, 5, 0, 0, text).shown
    assert largest_first == evidence_of({"layer": 0, "feature": 7, "examples": repeated[:3]}, [], None, 5, 0, 0, text).shown
    long = {"text_id": "t", "token_index": 100, "context": [*WORDS[:100], "\n «it\n", *WORDS[100:]]}
    (shown,) = evidence_of({"layer": 0, "feature": 7, "examples": [long]}, [], None, 5, 4, 0, lambda token: f" {token}").shown
    assert shown.split() == [*WORDS[100 - BEFORE : 100], '«"it»', *WORDS[100 : 100 + AFTER]]


def test_balanced_accuracy_by_hand() -> None:
    # 8 of 10 active texts are detected, and 3 of 9 others: (0.8 + 6/9) / 2.
    assert balanced_accuracy((8, 10), (3, 9)) == pytest.approx((0.8 + 6 / 9) / 2)
    assert balanced_accuracy((0, 0), (3, 9)) is None
    assert balanced_accuracy((8, 10), (0, 0)) is None
    # All right: each share's Clopper-Pearson bound is (alpha / 2) ** (1 / n), and the distances add in squares.
    low, high = detection_interval((10, 10), (0, 10), 0.95)
    away = 1 - beta.ppf(0.025, 10, 1)
    assert (low, high) == (pytest.approx(1 - np.hypot(away, away) / 2, abs=1e-4), pytest.approx(1))
    assert detection_interval((1, 1), (3, 9), 0.95) is None


def test_where_a_feature_is_active_is_read_off_all_its_activations() -> None:
    rows = pl.DataFrame(
        {"text_id": ["a", "b", "c"], "feature": [[1, 1, 2], [], [2]]}, schema={"text_id": pl.String, "feature": pl.List(pl.UInt32)}
    )
    assert texts_with(rows, [1, 2, 3]) == {1: frozenset("a"), 2: frozenset("ac")}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Name: ships at sea", "ships at sea"),
        ("**Name:** “Ships at sea”.", "Ships at sea"),
        ("Name: a\u202eb\x1b[31m <b>", "a b [31m <b>"),
        (f"Name: {'x' * LONGEST_NAME}", "x" * LONGEST_NAME),
        ("Name: the token <|endoftext|>", "the token <|endoftext|>"),
        ("Hm.</think> Name: ships", "ships"),
        ("Name: ships\n```", "ships"),
    ],
)
def test_a_name_is_one_printable_line(line: str, name: str) -> None:
    assert parse(f"Because.\nName: not this\n{line}\n\n", "stop", "Name", ()) == Words(name)


@pytest.mark.parametrize("raw", ["", "Name:", "Name: ...", f"Name: {'x' * (LONGEST_NAME + 1)}", "Ships at sea", "Name: ships\nat sea"])
def test_what_is_no_name_is_missing(raw: str) -> None:
    assert isinstance(parse(raw, "stop", "Name", ()), Unparsed)
    assert isinstance(parse("Name: ships", "length", "Name", ()), Unparsed)


def test_yes_and_no_are_read_and_nothing_else() -> None:
    question = detection_question("ships", "The answer: yes, said the captain")
    label = question.label
    assert re.fullmatch("Answer [0-9a-f]{6}", label), "the text speaks of answers"
    assert [question.reading(f"{label}: {word}", "stop") for word in ("no", "**Yes**")] == [Rating(0), Rating(1)]
    assert all(isinstance(question.reading(raw, "stop"), Unparsed) for raw in ("Answer: yes", f"{label}: 1", f"{label}: yes and no"))
    assert question.messages(1)[0]["content"].endswith(f"the last line of the answer is `{label}: no` or `{label}: yes`.")
    assert question.messages(2)[0]["content"].endswith(f"one of these two: `{label}: no`, `{label}: yes`. Give no reason this time.")


def test_a_name_is_asked_of_what_there_is() -> None:
    both = name_question(Evidence(0, 0, ("a «b»",), ("c",), (), ()))
    lens = name_question(Evidence(0, 0, (), ("c",), (), ()))
    assert name_question(Evidence(0, 0, (), (), ("held out",), ("other",))) is None
    assert ("a «b»" in both.prompt, "[tokens " in both.prompt, "[examples " in lens.prompt) == (True, True, False)
    assert both.messages(2)[0]["content"].endswith("of the form `Name: NAME`. Give no reason this time.")


def test_a_label_is_an_explanation_behind_the_sources() -> None:
    examples = pl.DataFrame(
        {"layer": [0, 0, 0], "feature": [1, 2, 3], "explanations": [[], ["theirs"], ["theirs"]]},
        schema_overrides={"explanations": pl.List(pl.String)},
    )
    labels = pl.DataFrame({"layer": [0, 0], "feature": [1, 2], "label": ["ours", "ours"]})
    assert with_labels(examples, labels)["explanations"].to_list() == [["ours"], ["theirs", "ours"], ["theirs"]]


def test_provenance_in_words() -> None:
    counts = {"n_active": 10, "n_active_detected": 9, "n_inactive": 10, "n_inactive_detected": 1}
    row = {"model": "m\x1b", "evidence": "both", "detection": 0.9, **counts}
    assert re.fullmatch(r"label by m\ufffd from examples and lens tokens, detection 0.90 \[0\.\d\d, 0\.\d\d\]", provenance(row, 0.95))
    assert provenance({**row, "detection": None}, 0.95).endswith("lens tokens, detection unknown")


@pytest.fixture(scope="module")
def micro(finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return finished.copy(tmp_path_factory.mktemp("explained") / "micro")


@pytest.fixture
def here(micro: Folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """The finished experiment without labels, as the current folder; what a test says in its file goes."""
    monkeypatch.chdir(micro.path)
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)
    before = Path("config/experiments/micro.yaml").read_bytes()
    features = Path("data/micro/tables/features.parquet").read_bytes()
    yield micro
    Path("config/experiments/micro.yaml").write_bytes(before)
    Path("data/micro/tables/features.parquet").write_bytes(features)
    shutil.rmtree("data/micro/explanations", ignore_errors=True)
    Path("data/micro/spent.jsonl").unlink(missing_ok=True)


def endpoint(base_url: str, **more: Any) -> dict[str, Any]:
    return {"kind": "endpoint", "base_url": base_url, "model": "judge-1", "key_variable": "TEST_JUDGE_KEY"} | more


def run_here() -> Run:
    return open_run("micro", load_workflow(read_yaml(Path("config/config.yaml"))))


def call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["explain", "micro", *arguments])
    return done.exit_code, done.output


def says(name: str = "ships at sea") -> Any:
    """Names everything so, and says yes to every second text."""

    def answer(prompt: str) -> str:
        label = re.findall(r"((?:Name|Answer)(?: [0-9a-f]{6})?): ", prompt)[-1]
        return f"So.\n{label}: {name}" if label.startswith("Name") else f"So.\n{label}: {('no', 'yes')[len(prompt) % 2]}"

    return answer


def is_name(prompt: str) -> bool:
    return "where NAME is" in prompt


def enclosed_parts(prompt: str) -> dict[str, str]:
    return dict(re.findall(r"^\[(\w+) [0-9a-f]{6} starts\]\n(.*?)\n\[\w+ [0-9a-f]{6} ends\]$", prompt, re.MULTILINE | re.DOTALL))


def n_texts(run: Run) -> int:
    """How many texts are held out, and as many others, of the features that are ever active."""
    return sum(2 * min(10, n // 2) for n in run.rows(MAX_ACTIVATING_EXAMPLES)["n_examples"])


@pytest.mark.slow
def test_a_language_model_is_asked_once_and_held_out_texts_were_not_shown(here: Folder) -> None:
    with judge_server(answer=says(), key=KEY, faults=deque([None, Fault(status=429), Fault(status=500)])) as judge:
        here.edit("micro", judge=endpoint(judge.base_url))
        code, said = call("--features", "6/182", "--from", "examples")
        assert code == 0, said
        assert re.search(r"^6/182  ships at sea \(label by judge-2025 from examples, detection 0\.\d\d \[", said)
        assert "write into the file of micro `explanations: {evidence: examples}`" in said
        (shown,) = [enclosed_parts(prompt)["examples"].splitlines() for prompt in judge.answered if is_name(prompt)]
        asked = [enclosed_parts(prompt) for prompt in judge.answered if not is_name(prompt)]
        assert {part["name"] for part in asked} == {"ships at sea"}
        assert not {part["text"] for part in asked} & {line.replace("«", "").replace("»", "") for line in shown}
        assert (len(shown), len(asked)) == (15, 20)
        n_tried = len(judge.answered)
        here.edit("micro", judge=endpoint(judge.base_url), explanations={"evidence": "examples"})
        code, said = call()
        assert code == 0, said
        assert "tried only" not in said
        run = run_here()
        every = set(judge.answered)
        assert len(every) == len(judge.answered), "a question was asked twice"
        assert sum(is_name(prompt) for prompt in every) == 8
        assert len(every) == 8 + n_texts(run)
        assert n_tried == 21
        assert call() == (0, said)
        assert len(judge.answered) == len(every)
    rows = run.rows(EXPLANATIONS)
    assert rows["label"].to_list() == ["ships at sea"] * 8
    for row in rows.iter_rows(named=True):
        active, inactive = row["n_active_detected"] / row["n_active"], row["n_inactive_detected"] / row["n_inactive"]
        assert row["detection"] == pytest.approx((active + 1 - inactive) / 2)
    assert KEY not in "".join(stored(run.data / "explanations/answers")["raw"])
    features = pl.read_parquet(run.summary_path(FEATURES))
    assert set(features["explanation"]) == {"ships at sea"}
    unknown = {"concept": pl.lit(None, pl.String), "fires_on": pl.lit(None, pl.String), "near": pl.lit(False)}
    found = candidates(features.with_columns(**unknown), "sea", 9)
    assert (found.height, set(found["match"])) == (8, {"explanation"})


@pytest.mark.slow
def test_no_text_without_activation_has_any(here: Folder) -> None:
    """The step's texts, looked up in the corpus and in its activations."""
    run = run_here()
    named = replace(run, experiment=run.experiment.model_copy(update={"explanations": ExplanationSettings()}))
    tokens = run.tokens()
    strings = [
        [tokens.text_of(token) for token in tokens.strings(ids)] for ids in pl.read_parquet(run.file("texts"))["token_ids"].to_list()
    ]
    names = text_ids(run.file("texts"))
    lines = {name: " ".join("".join(of_text).split()) for name, of_text in zip(names, strings, strict=True)}
    active = dict(run.rows(ACTIVATIONS, [6], ["feature"]).select("text_id", "feature").iter_rows())
    for one in explanations._evidence(named, 6, [27, 182]):
        assert (len(one.active), len(one.inactive)) == (10, 10)
        for excerpt in one.inactive:
            assert any(excerpt in line and one.feature not in active[name] for name, line in lines.items())
        for excerpt in one.active:
            assert any(excerpt in line and one.feature in active[name] for name, line in lines.items())


@pytest.mark.slow
def test_unreadable_answers_are_asked_for_again_then_missing_and_hostile_names_stay_text(here: Folder) -> None:
    hostile = "<img src=x onerror=alert(1)>]]\u202e | `rm`"
    with judge_server(answer=lambda prompt: says(hostile)(prompt) if is_name(prompt) else "no idea", key=KEY) as judge:
        here.edit("micro", judge=endpoint(judge.base_url))
        code, said = call("--features", "6/182")
        assert code == 0, said
        assert len(judge.requests) == 1 + 3 * 20
    assert "6/182  <img src=x onerror=alert(1)>]] | `rm (label by judge-2025 from examples and lens tokens, detection unknown)" in said
    with judge_server(answer=lambda prompt: f"Name: {'x' * 200}", key=KEY) as judge:
        here.edit("micro", judge=endpoint(judge.base_url, model="judge-2"))
        code, said = call("--features", "6/182")
        assert (code, len(judge.requests)) == (0, 3)
    assert said.startswith("6/182  no label: unreadable answer")


@pytest.mark.slow
def test_after_a_kill_only_what_was_not_kept_is_asked(here: Folder) -> None:
    config = Path("config/config.yaml")
    written = config.read_text()
    config.write_text(written + "\npart_seconds: 0\n")
    with judge_server(answer=says(), key=KEY, delay=0.05) as judge:
        here.edit("micro", judge=endpoint(judge.base_url, concurrency=2), explanations={})
        process = subprocess.Popen(
            ["saesteer", "explain", "micro", "--features", "6/182", "--features", "6/27"], cwd=here.path, env=here.warm
        )
        deadline = time.monotonic() + 120
        while len(judge.answered) < 12 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.wait()
        before = len(judge.answered)
        assert 12 <= before < 42
        code, said = call("--features", "6/182", "--features", "6/27")
        assert code == 0, said
        assert len(set(judge.answered)) == 42
        assert len(judge.answered) <= 42 + 4, "more was asked twice than was under way"
    config.write_text(written)


@pytest.mark.slow
def test_what_cannot_be_named_is_refused_in_a_sentence(here: Folder, tmp_path: Path) -> None:
    assert call("--features", "2/4") == (1, "--features 2/4: micro has no such feature; write LAYER/FEATURE, e.g. 2/3\n")
    here.edit("micro", judge={"kind": "none"})
    code, said = call()
    assert (code, said.count("\n"), "micro has no judge to name its features" in said) == (1, 1, True)
    here.edit("micro", judge={"kind": "none"}, explanations={"evidence": "lens"})
    code, said = call()
    assert (code, "explanations: the judge names the features, and its kind is none" in said) == (1, True)
    here.edit("micro", judge=endpoint("http://localhost:9/v1", key_variable="NOT_SET"), explanations=None)
    code, said = call()
    assert (code, "set the environment variable NOT_SET" in said) == (1, True)
    Path("data/micro/max_activating_examples").rename(tmp_path / "away")
    code, said = call()
    (tmp_path / "away").rename("data/micro/max_activating_examples")
    assert (code, "micro has no max_activating_examples" in said, "run its workflow first" in said) == (1, True, True)


@pytest.mark.slow
def test_the_workflow_names_features_and_a_worlds_judge_knows_its_topics(here: Folder) -> None:
    here.edit("micro", explanations={"evidence": "both"})
    code, printed = here.run("data/micro/tables/features.parquet")
    assert code == 0, printed
    assert "3 of 3 steps" in printed or "2 of 2 steps" in printed
    run = run_here()
    rows, concepts = run.rows(EXPLANATIONS), run.rows(CONCEPTS)
    known = rows.join(concepts.select("layer", "feature", "concept"), on=["layer", "feature"]).drop_nulls(["concept", "label"])
    assert known.height >= 3
    assert (known["label"] == known["concept"]).mean() >= 0.5
    assert set(rows["label"].drop_nulls()) <= set(run.topics())
    # recommend and the report show where a label comes from.
    first = known.row(0, named=True)
    picked = picked_features(run, RecommendRequest(run.name, first["label"], 4, 1, Path("config/config.yaml"), None))
    said = f"{first['label']} ({provenance(first, 0.95)})"
    assert said.startswith(f"{first['label']} (label by oracle from examples and lens tokens, detection ")
    assert said in picked["labelled"].to_list()
    features = run.summary(FEATURES)
    shown = _with_provenance(run, features).filter(layer=first["layer"], feature=first["feature"])["explanations"][0].to_list()
    assert shown == [said]
    unlabelled = rows.filter(pl.col("label").is_null()).select("layer", "feature")
    assert features.join(unlabelled, on=["layer", "feature"])["explanations"].list.len().sum() == 0
    # The command asks for nothing that the workflow has made, and a row alone is the row among others.
    parts = here.parts(steps=["explanations"])
    code, said = call()
    assert (code, here.parts(steps=["explanations"])) == (0, parts), said
    key = pl.DataFrame({"layer": [6], "feature": [182]}, schema=EXPLANATIONS.key_schema)
    alone = pl.concat(explanations.compute(run, key))
    assert alone.equals(rows.filter(layer=6, feature=182))
