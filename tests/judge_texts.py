"""Generations to be judged, and a judge's settings with short waits."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from judge_server import Judge, agreeable

from saesteer.analysis.concepts import with_concept
from saesteer.core.files import text_id
from saesteer.core.tables import validate
from saesteer.core.texts import as_generations
from saesteer.judge.answers import ANSWERS, Asker
from saesteer.judge.batch import BatchAsker, endpoint_asker
from saesteer.judge.endpoint import EndpointAsker
from saesteer.judge.rate_llm import judge_texts
from saesteer.judge.rubric import Question
from saesteer.settings import EndpointJudge
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS

QUICK = 3  # retries
KEY = "sk-test-0123456789abcdef"
INSTRUCTIONS = {text_id(text): text for text in ("Tell me a story.", "Name three rivers.")}
CONCEPTS = ("storms at sea", "chess openings")
ENVIRON = {"TEST_JUDGE_KEY": KEY}
TEXTS = ["The waves rose.", "A pawn moved", "It was it was it was"]


def generations(texts: Sequence[str], layers: Sequence[int] = (0,)) -> pl.DataFrame:
    """Each text once for each of two features of each layer, under alternating prefixes."""
    rows = [
        {"layer": layer, "feature": feature, "factor": "2", "prefix_id": list(INSTRUCTIONS)[number % 2], "sample": number, "text": text}
        for layer in layers
        for feature in (0, 1)
        for number, text in enumerate(texts)
    ]
    made = as_generations(pl.DataFrame(rows)).with_columns(reason=pl.lit(None, pl.String))
    return made.cast({**GENERATIONS.key_schema, "text": pl.String})


def concepts(layers: Sequence[int] = (0,), names: Sequence[str | None] = CONCEPTS) -> pl.DataFrame:
    """The two features' concepts."""
    rows = [{"layer": layer, "feature": feature, "concept": name} for layer in layers for feature, name in enumerate(names)]
    return pl.DataFrame(rows, schema={"layer": pl.UInt16, "feature": pl.UInt32, "concept": pl.String})


def settings(base_url: str, **changes: Any) -> EndpointJudge:
    """An endpoint at this address."""
    given = {"kind": "endpoint", "base_url": base_url, "model": "judge-1", "key_variable": "TEST_JUDGE_KEY", "timeout_seconds": 5.0}
    return EndpointJudge(**(given | changes))


def judge_generations(rows: pl.DataFrame, concepts: pl.DataFrame, *rest: Any, **named: Any) -> Iterator[pl.DataFrame]:
    return judge_texts(with_concept(rows, concepts), *rest, **named)


def judged(rows: pl.DataFrame, asker: Asker, folder: Path, instructed: bool = False, **changes: Any) -> pl.DataFrame:
    """All JUDGEMENTS rows of the generations."""
    layers = rows["layer"].unique().to_list()
    given = {"concepts": concepts(layers), "instructions": INSTRUCTIONS if instructed else None, "part_seconds": 60.0}
    frames = list(judge_generations(rows, asker=asker, answers_folder=folder, **(given | changes)))
    assert all(frame["layer"].n_unique() == 1 for frame in frames)
    return validate(JUDGEMENTS, pl.concat(map(JUDGEMENTS.of, frames)), "test")


def stored(folder: Path) -> pl.DataFrame:
    """Every stored answer."""
    parts = [pl.read_parquet(part) for part in folder.rglob("*.parquet")]
    return pl.concat([pl.DataFrame(schema=ANSWERS.schema), *parts])


def asker(judge: Judge, **changes: object) -> EndpointAsker | BatchAsker:
    """What asks this endpoint, without long waits."""
    return endpoint_asker(settings(judge.base_url, **changes), ENVIRON, judge.data, QUICK, poll_seconds=0.01)


PROGRAM = """
import json, signal, sys
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as the scripts do
from judge_texts import ENVIRON, QUICK, concepts, generations, settings, judge_generations
from saesteer.judge.batch import BatchAsker, endpoint_asker
texts, address, data, folder, part_seconds, changes = map(json.loads, sys.argv[1:])
asker = endpoint_asker(settings(address, **changes), ENVIRON, Path(data), QUICK, poll_seconds=0.02)
for _ in judge_generations(generations(texts), concepts(), None, asker, Path(folder), part_seconds):
    pass
print("openai" in sys.modules)
"""


def judging_process(texts: Sequence[str], judge: Judge, folder: Path, part_seconds: float = 60.0, **changes: Any) -> subprocess.Popen[str]:
    """A process that judges texts and prints whether it has imported openai."""
    arguments = [json.dumps(value) for value in (texts, judge.base_url, str(judge.data), str(folder), part_seconds, changes)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], env=environ, text=True, **pipes)


def expected_rating(question: Question) -> int:
    return int(agreeable(question.prompt)[-1])
