"""Files that papers published: where each is, and how what it holds is read. The project ships none of them (saesteer.download fetches).

Each has a key, a repository, a commit and a path there. What is read out of a file is plain data: a program's literal lists are read from
its syntax tree, and nothing is ever imported or run.
"""

import ast
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl

from saesteer.settings import SettingsError


@dataclass(frozen=True)
class Published:
    """A file in a public repository at a commit."""

    repo: str
    commit: str
    path: str
    sha256: str | None
    """Of its bytes; None where the commit alone pins it (its digest could not be taken when this table was written)."""

    @property
    def identity(self) -> str:
        """What results that use it depend on."""
        return self.sha256 or f"{self.repo}@{self.commit}/{self.path}"


_P1 = ("technion-cs-nlp/saes-are-good-for-steering", "8f11a99997f56978b9933e49768b674ede07eb7c")
_AXBENCH = ("stanfordnlp/axbench", "e9b8cd4783c983e350d78af76f3fb2b8b15fc7d3")
PUBLISHED = {
    "p1/gemma_2b": Published(
        *_P1, "data/features/gemma_2b_features.json", "d26654ec439ac14391c57397e91417e70ac61561d1bd0a931384903142fc80a3"
    ),
    "p1/gemma_9b": Published(
        *_P1, "data/features/gemma_9b_features.json", "88ac8df8b7e52f28c15513b23c22f2e1f4008a54e960691589e5efe8274d0e3b"
    ),
    "p1/concept500": Published(
        *_P1, "data/features/gemma_9b_concept500_features.json", "8965fa0529a928d121ee05646acc1221d55419b9f4693cfdd8ba9b51139bb21c"
    ),
    "p1/prefixes": Published(*_P1, "src/steer.py", "0e44160c9e7bb61ab135214324e2bf703d96fc5fe0e782f7b4a2930963066fee"),
    "axbench/judge_templates": Published(
        *_AXBENCH, "axbench/evaluators/prompt_templates.py", "9d4eb22324b0e98bd867170073814998794efe9dfdf3cef795ec2000dda46a52"
    ),
    "axbench/concept500_9b_l20": Published(
        *_AXBENCH,
        "axbench/concept500/prod_9b_l20_v1/generate/metadata.jsonl",
        "9fa04b68774443e7fd3a48050838fb38f74c68ff9ca4ab97c773ff58c829c00b",
    ),
    "axbench/concept500_9b_l31": Published(
        *_AXBENCH,
        "axbench/concept500/prod_9b_l31_v1/generate/metadata.jsonl",
        "dda407cf75a25cd96227ed757dd88eb8a95f5747d80dbe72ee52eb6fa568e475",
    ),
    "axbench/concept10_2b_l10_train": Published(
        *_AXBENCH,
        "axbench/concept10/prod_2b_l10_v1/generate/train_data.parquet",
        "527e54bfd2a322772312e7b6a04568e88f0e2f50aa558e0724f15327d1358f14",
    ),
    "axbench/concept10_2b_l10_evaluation": Published(
        *_AXBENCH,
        "axbench/concept10/prod_2b_l10_v1/inference/latent_eval_data.parquet",
        "35378348de14924fcd269c97d1c619930e320202e7c4a2dcf018a3e762a6fc7b",
    ),
    "axbench/concept500_9b_l20_train": Published(*_AXBENCH, "axbench/concept500/prod_9b_l20_v1/generate/train_data.parquet", None),
    "axbench/concept500_9b_l31_train": Published(*_AXBENCH, "axbench/concept500/prod_9b_l31_v1/generate/train_data.parquet", None),
    "alpaca_eval/instructions": Published(
        "tatsu-lab/alpaca_eval", "0099f05da4df8db539a70552aa0a39e238e8d24e", "example/outputs.json", None
    ),
    "nltk/webtext": Published("nltk/nltk_data", "5f09e470fe339e1a119dd174ca284129a3c7a5bb", "packages/corpora/webtext.zip", None),
}
"""Key -> file. P1: arXiv 2505.20063; axbench: arXiv 2501.17148; webtext: the corpus of P1's PMI figure."""


def published_file(key: str) -> Published:
    """The file of a key; an unknown key is refused with the known ones."""
    if key not in PUBLISHED:
        raise SettingsError(f"there is no published file {key!r}; known: {', '.join(PUBLISHED)}")
    return PUBLISHED[key]


def kept_at(key: str, downloads: Path) -> Path:
    """Where the file of a key is kept."""
    return downloads / "published" / f"{key}{PurePosixPath(published_file(key).path).suffix}"


def feature_list(path: Path) -> dict[int, tuple[int, ...]]:
    """A feature set in P1's form, layer -> features, ascending: {"0": [17, 5], ...}."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {int(layer): tuple(sorted(int(feature) for feature in features)) for layer, features in values.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path} is no feature list of the form {{layer: [feature, ...]}}: {error}") from error


def literal_strings(path: Path, name: str) -> list[str]:
    """The list of strings that a program assigns to `name`, read from its syntax tree."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets) and isinstance(node, ast.Assign):
            values = ast.literal_eval(node.value)
            if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
                return values
    raise SettingsError(f"{path} assigns no list of strings to {name!r}")


def instructions(path: Path) -> list[str]:
    """The instructions of a file in AlpacaEval's form: a JSON list of objects with a key `instruction`; each once, one line each."""
    listed = [" ".join(str(item["instruction"]).split()) for item in json.loads(path.read_text(encoding="utf-8"))]
    return list(dict.fromkeys(listed))


def zipped_lines(path: Path) -> pl.DataFrame:
    """The distinct lines with letters in them of the text files of a zip archive, one text each -> column text."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".txt"))
        text = "\n".join(archive.read(name).decode("utf-8", errors="replace") for name in names)
    lines = [line.strip() for line in text.splitlines()]
    return pl.DataFrame({"text": list(dict.fromkeys(line for line in lines if any(map(str.isalpha, line))))})
