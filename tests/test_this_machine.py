"""What `saesteer check` says of a machine without a GPU: how long, how much memory, what to make smaller."""

from dataclasses import replace
from pathlib import Path

import pytest

from saesteer.engine.memory import free_host_bytes
from saesteer.engine.process import n_cores, peak_flops
from saesteer.settings import load_experiment
from saesteer.settings.load import load_workflow, read_yaml
from saesteer.workflow.preflight import _disk, _Subject, _Weights, check_experiment
from saesteer.workflow.this_machine import SMALLER, Amounts, duration, in_words, operations

GEMMA = Amounts(model=2.6e9, scorer=2.6e9, sae=7.5e7, n_layers=2, n_features=12, n_texts=1000, n_new=20, corpus_tokens=5000)


def test_operations_by_hand() -> None:
    """Two a weight and token: 1,000 texts of 20 tokens; read again with their prefixes; a corpus through the model and two encoders."""
    assert operations(GEMMA) == {
        "writing texts": pytest.approx(2 * 1000 * 20 * 2.6e9),
        "their losses": pytest.approx(2 * 1000 * 28 * 2.6e9),
        "activations": pytest.approx(2 * 5000 * (2.6e9 + 7.5e7)),
        "scores": pytest.approx(2 * 12 * 2.6e9),
        "pilot factors": 0,
    }
    assert operations(replace(GEMMA, pilot_tokens=700))["pilot factors"] == pytest.approx(2 * 700 * 2.6e9)
    assert set(operations(GEMMA)) == set(SMALLER)
    assert operations(replace(GEMMA, n_texts=2000))["writing texts"] == 2 * operations(GEMMA)["writing texts"]


def test_words_by_hand() -> None:
    """7,200 TFLOP at a third of 60 GFLOP/s: 360,000 s."""
    work = {"writing texts": 2.4e15, "their losses": 4.8e15, "activations": 0.0, "scores": 0.0}
    said = in_words(work, 60e9, 2, 12 * 2**30, 30 * 2**30)
    assert said.startswith("no GPU; 2 cores, now 60 GFLOP/s. About 4 days, their losses 67% of it;")
    assert "takes about 12.0 GiB, 30.0 GiB are free" in said
    assert said.endswith(f"Shorter: {SMALLER['their losses']}")
    assert "run snakemake with --cores 1" in in_words(work, 60e9, 2, 12 * 2**30, 20 * 2**30)
    assert "It does not fit" in in_words(work, 60e9, 2, 12 * 2**30, 8 * 2**30)
    short = in_words({"scores": 60e9}, 60e9, 2, 1, 10)
    assert "Shorter" not in short
    assert "About a minute, scores 100% of it" in short


@pytest.mark.parametrize(("seconds", "said"), [(5.0, "a minute"), (7000.0, "117 minutes"), (7200.0, "2 hours"), (259200.0, "3 days")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_shipped_experiment_takes_minutes_here() -> None:
    assert n_cores() >= 1
    assert free_host_bytes() > 2**20
    assert 1e8 < peak_flops() < 1e15
    workflow = load_workflow(read_yaml(Path("config/config.yaml")))
    experiment = load_experiment("micro", *workflow.experiments_dirs)
    (text,) = (found.text for found in check_experiment("micro", experiment, workflow, {}) if "GPU" in found.about + found.text)
    assert text.startswith(f"no GPU; {n_cores()} cores, now ")
    assert " minute" in text
    assert "GiB are free" in text


def test_what_a_model_takes_on_disk_is_what_is_downloaded_whatever_it_runs_in(tmp_path: Path) -> None:
    """The repository's bytes; of a model that is on this machine none."""
    workflow = load_workflow(read_yaml(Path("config/config.yaml"))).model_copy(update={"data_dir": tmp_path})
    experiment = load_experiment("micro", *workflow.experiments_dirs)
    models = {"model": _Weights(10 * 2**30, {}, 3 * 2**28), "perplexity_model": _Weights(2**30, {})}
    assert "models 0.8 GiB, " in _disk(_Subject("micro", experiment, workflow, {}, models))
