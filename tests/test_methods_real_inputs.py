"""The comparison of steering methods as for real models: gemma-2-2b-it's and gemma-2-9b-it's own files with small sizes laid over them, on
what a loopback hub, Neuronpedia, GitHub and judge serve, to the report and figures."""

import hashlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from axbench_files import CONCEPTS, lines_of, metadata, train_rows
from hub_fakes import gemma_scope, random_model
from real_inputs import D_MODEL, N_FEATURES, RealFolder, World, layer_examples, small_world
from workflow_folder import BIN, ROOT, Checkout, Folder

from saesteer.core.files import text_id
from saesteer.core.tables import read_summary
from saesteer.core.texts import FIT_TEXT
from saesteer.exchange.neuronpedia import write_export
from saesteer.methods.compare.tables import METHOD_SUMMARIES
from saesteer.run import Run
from saesteer.settings import SaeSettings, SettingsError, Workflow, load_experiment
from saesteer.settings.registry import method
from saesteer.sources.concept_tables import COMPARED_CONCEPTS, STEERING_PROMPTS
from saesteer.sources.concept_texts import with_labels
from saesteer.sources.neuronpedia.sources import Source
from saesteer.sources.published import PUBLISHED
from saesteer.sources.sae_sources import sae_source
from saesteer.steps.step import steps_of
from saesteer.workflow import outputs, plan

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

SHIPPED = ("gemma-2-2b-it-methods", "gemma-2-9b-it-methods")
TEXT_STEPS = ("generations", "perplexity", "judge")
N_CONCEPTS, N_TEXTS, N_PROMPTS = 2, 8, 2
INSTRUCTIONS = ["How are the names of winds chosen?", "Why is the sky\nblue?", "Name a good book."]
"""As AlpacaEval's: one of them has several lines."""
FACTORS = {"addition": [1, 3], "clamp": [1, 4], "adapter": [1], "prompt": [1], "prompt_search": [1]}
SIZES: dict[str, Any] = {
    "n_positive": N_TEXTS,
    "n_negative": N_TEXTS,
    "learning_rates": [1e-2],
    "n_prompts": N_PROMPTS,
    "max_new_tokens": 8,
    "factors": FACTORS,
    "effects": {"n_vectors": 24, "n_held_out": 4, "n_rollouts": 1, "n_prompts": 4, "max_new_tokens": 6},
    "bootstrap_draws": 200,
    "prompt_writer": None,
}
LARGE = "small-2b-it"
"""gemma-2-2b-it's comparison, all methods, with the judge that its file names."""
OTHER = "small-9b-it"
"""gemma-2-9b-it's, few methods, with a judge that is a model of the hub."""


@dataclass
class Compared:
    folder: RealFolder
    printed: str

    @property
    def judged(self) -> list[str]:
        """The questions that the judge answered, in order."""
        return self.folder.world.judge.answered


def published(folder: Path) -> dict[str, bytes]:
    """Key -> bytes of everything that the two experiments take from GitHub."""
    listed = [{"instruction": line, "output": "", "generator": "reference"} for line in [*INSTRUCTIONS, INSTRUCTIONS[0]]]
    pl.DataFrame(train_rows(n_own=10, n_shared=10)).write_parquet(folder / "train.parquet")
    texts = (folder / "train.parquet").read_bytes()
    return {
        "axbench/concept10_2b_l10": lines_of(metadata("gemma-2-2b/10-gemmascope-res-16k")).encode(),
        "axbench/concept10_2b_l10_train": texts,
        "axbench/concept500_9b_l20": lines_of(metadata("gemma-2-9b-it/20-gemmascope-res-131k")).encode(),
        "axbench/concept500_9b_l20_train": texts,
        "alpaca_eval/instructions": json.dumps(listed).encode(),
    }


@contextmanager
def chat_world(folder: Path) -> Iterator[World]:
    """What the two experiments download and ask, besides what small_world serves."""
    with small_world(folder) as world:
        for key, data in published(folder).items():
            path = folder / "github" / PUBLISHED[key].repo / PUBLISHED[key].commit / PUBLISHED[key].path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            if PUBLISHED[key].sha256 is None:
                world.digests[key] = hashlib.sha256(data).hexdigest()
        for name, n_layers in (("2b", 11), ("9b", 21)):
            world.hub.add(f"google/gemma-2-{name}-it", random_model(folder / f"chat-{name}", "gemma2", D_MODEL, n_layers))
        _serve_saes(world, folder, "google/gemma-scope-2b-pt-res", "gemma-scope-2b-pt-res-canonical", "16k", 10)
        _serve_saes(world, folder, "google/gemma-scope-9b-it-res", "gemma-scope-9b-it-res-canonical", "131k", 20)
        write_export(layer_examples(10), Source("gemma-2-2b", "10-gemmascope-res-16k"), folder / "exports")
        write_export(layer_examples(20), Source("gemma-2-9b-it", "20-gemmascope-res-131k"), folder / "exports")
        world.hub.add("judges/one", _judge_model(folder / "judge"))
        yield world


def _serve_saes(world: World, folder: Path, repo: str, release: str, width: str, layer: int) -> None:
    """One more commit of a repository, with the SAE of a layer alone."""
    settings = SaeSettings(release=release, id=f"layer_{{layer}}/width_{width}/canonical", d_model=D_MODEL, n_features=N_FEATURES)
    place = folder / f"saes-{layer}"
    gemma_scope(place / sae_source(settings, layer).folder, D_MODEL, N_FEATURES, seed=layer)
    world.hub.add(repo, place)


def _judge_model(folder: Path) -> Path:
    """A model that has room for a judge's questions: its positions are rotations, so that more of them need no weights."""
    random_model(folder, "gemma2", D_MODEL, n_layers=1, seed=5)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return folder


class ChatFolder(RealFolder):
    """A checkout in which the published files have the digests of those that are served here, and training takes two epochs."""

    def __init__(self, path: Path, world: World, served: Path) -> None:
        Checkout(path)
        super().__init__(path, world, path)
        table = path / "src/saesteer/sources/published.csv"
        rows = table.read_text()
        for key, data in published(served).items():
            if (pinned := PUBLISHED[key].sha256) is not None:
                assert rows.count(pinned) == 1
                rows = rows.replace(pinned, hashlib.sha256(data).hexdigest())
        table.write_text(rows)
        recipes = path / "src/saesteer/settings/recipes.csv"
        pl.read_csv(recipes, infer_schema=False).with_columns(epochs=pl.lit("2")).write_csv(recipes)

    def compare(self, name: str, extends: str, judge: dict[str, Any], methods: dict[str, Any], **sections: Any) -> None:
        """Write an experiment that lays small sizes over one of the shipped files, and the configuration that names it."""
        chosen = {
            "extends": extends,
            "description": f"{extends} on small random files",
            "model": {"revision": None, "dtype": "float32"},  # not bfloat16, which needs a GPU
            "perplexity": {"model": {"revision": None, "dtype": "float32"}},
            "saes": {"revision": None, "d_model": D_MODEL, "n_features": N_FEATURES},
            "methods": {**SIZES, **methods},
            "judge": judge,
        }
        (self.path / f"config/experiments/{name}.yaml").write_text(yaml.safe_dump(chosen | sections))
        addresses = self.world.neuronpedia.addresses.model_dump() | {"github": self.world.github}
        (self.path / "config/config.yaml").write_text(yaml.safe_dump({"addresses": addresses, "published_digests": self.world.digests}))

    def compare_2b(self, n_concepts: int = N_CONCEPTS, name: str = LARGE, **sections: Any) -> None:
        judge = {"base_url": self.world.judge.base_url}
        self.compare(name, SHIPPED[0], judge, {"concepts": {"n_concepts": n_concepts}}, **sections)

    def run_methods(self, name: str, *arguments: str, targets: Sequence[str] = ("methods",)) -> tuple[int, str]:
        return self.run(*targets, *arguments, experiment=name, methods=f"[{name}]")

    def summary(self, name: str, table: str) -> pl.DataFrame:
        return read_summary(METHOD_SUMMARIES[table], self.path / f"data/{name}/tables/{table}.parquet")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compared]:
    """gemma-2-2b-it's comparison, finished."""
    served = tmp_path_factory.mktemp("served")
    with chat_world(served) as world:
        folder = ChatFolder(tmp_path_factory.mktemp("real") / "repo", world, served)
        folder.compare_2b()
        code, printed = folder.run_methods(LARGE)
        assert code == 0, printed[-4000:]
        yield Compared(folder, printed)


def methods_of(folder: ChatFolder, name: str) -> Sequence[str]:
    settings = load_experiment(name, folder.path / "config/experiments").methods
    assert settings is not None
    return settings.methods


def test_a_dry_run_of_the_papers_comparisons_needs_no_network(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    (tmp_path / "path").mkdir()
    (tmp_path / "path/sitecustomize.py").write_text(
        "import pathlib, socket\n"
        "def refused(*arguments, **others):\n"
        f"    pathlib.Path({str(tmp_path / 'asked')!r}).write_text(repr(arguments))\n"
        "    raise OSError('no network in this test')\n"
        "socket.getaddrinfo = socket.socket.connect = socket.socket.connect_ex = refused\n"
    )
    command = [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), "-n", "methods", "--configfile", "config/paper.yaml"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'path'}:{ROOT / 'src'}"}
    done = subprocess.run(command, cwd=folder.path, env=environment, capture_output=True, text=True, check=False)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-4000:]
    assert not (tmp_path / "asked").exists()
    table = printed.split("Job stats:")[1].split("total")[0].splitlines()
    counted = {words[0]: int(words[1]) for line in table if len(words := line.split()) == 2 and words[1].isdigit()}
    n_figures = sum(len(outputs.figures(load_experiment(name, ROOT / "config/experiments"))) for name in SHIPPED)
    fetched = {"fetch_model": 4, "fetch_saes": 2, "fetch_published": 5}  # two models each; lists and texts of each, one of instructions
    once = ["neuronpedia_examples", "concepts", "convert_saes", "logit_lens", "input_score", "output_score"]
    once += ["layer_features", "features_table", "concept_texts", "steering_prompts", "effects", "fits", "generations"]
    once += ["perplexity", "judge", "method_tables", "method_report"]
    assert counted == fetched | {"pin": 4, "figure": n_figures, "methods": 1} | dict.fromkeys(once, 2)


def test_every_method_of_the_file_is_compared(compared: Compared) -> None:
    folder, methods = compared.folder, methods_of(compared.folder, LARGE)
    assert len(methods) == 42
    fits = folder.table("fits", LARGE)
    assert Counter(fits["method"]) == dict.fromkeys((method(name).key for name in methods), N_CONCEPTS)
    abstaining = dict(fits.filter(pl.col("kind").is_null()).select("method", "reason").iter_rows())
    assert {"supervised", "supervised_random"} <= set(abstaining)  # P3 asks for 50 texts
    assert set(fits["layer"]) == {10}
    n_texts = N_CONCEPTS * N_PROMPTS * n_strengths(folder)
    assert {step: folder.table(step, LARGE).height for step in TEXT_STEPS} == dict.fromkeys(TEXT_STEPS, n_texts)
    assert folder.summary(LARGE, "methods").height == len(methods)


def n_strengths(folder: ChatFolder) -> int:
    n = {"once": 1, "prompt": 1} | {grid: len(factors) for grid, factors in FACTORS.items()}
    return sum(n[method(name).grid] for name in methods_of(folder, LARGE))


def test_concepts_carry_the_features_that_the_list_names(compared: Compared) -> None:
    concepts = read_summary(COMPARED_CONCEPTS, compared.folder.path / f"data/{LARGE}/tables/compared_concepts.parquet")
    assert set(concepts.rows()) == {(text_id(concept), concept, feature) for concept, _, feature in CONCEPTS[:N_CONCEPTS]}
    fits = compared.folder.table("fits", LARGE).filter(pl.col("method").is_in(["sae_label", "sae_clamp"]))
    fitted = {(concept_id, *features) for concept_id, features in fits.select("concept_id", "features").iter_rows()}
    assert fitted == {(text_id(concept), feature) for concept, _, feature in CONCEPTS[:N_CONCEPTS]}


def test_answers_are_rated_in_three_aspects_beside_their_instruction(compared: Compared) -> None:
    ratings = compared.folder.table("judge", LARGE)
    steered = compared.folder.table("generations", LARGE)
    written = steered.filter(pl.col("text").str.len_chars() > 0).join(ratings, on=list(FIT_TEXT))
    assert written.height > steered.height / 2
    assert written.select("concept_rating", "instruction_rating", "fluency_rating", "judge_score").null_count().sum_horizontal()[0] == 0
    lines = [" ".join(line.split()) for line in INSTRUCTIONS[:N_PROMPTS]]
    assert set(steered["prefix_id"]) == set(map(text_id, lines))
    for phrase in (*lines, *(concept for concept, _, _ in CONCEPTS[:N_CONCEPTS])):
        assert any(phrase in question for question in compared.judged)
    assert not any(INSTRUCTIONS[2] in question for question in compared.judged)
    assert len(compared.judged) == len(set(compared.judged))


def test_the_report_and_the_figures_are_made(compared: Compared) -> None:
    folder = compared.folder.path / "figures" / LARGE
    experiment = load_experiment(LARGE, compared.folder.path / "config/experiments")
    assert {path.stem for path in folder.glob("*.pdf")} == set(outputs.figures(experiment))
    report = (folder / "methods.md").read_text()
    assert all(title in report for title in ("DiffMean", "ReFT-r1", "LoReFT", "SAE-TS, rotation", "FGAA", "Supervised selection"))
    assert all(fact in report for fact in ("gpt-4o-mini", "gemma-2-2b-it", "axbench/concept10_2b_l10", "alpaca_eval/instructions"))


def test_the_other_model_is_compared_and_rated_by_a_model(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    """gemma-2-9b-it's file; the judge is random, so that what it answers can be no rating: null with a reason, and the report is made. A
    language model writes its steering prompts, once."""
    folder, judged = compared.folder, len(compared.judged)
    few = ["unsteered", "prompting", "diffmean", "sae_label"]
    judge = {"kind": "model", "model": {"repo": "judges/one", "revision": None, "prompt_format": "chat"}, "max_tokens": 4}
    writer = {"base_url": folder.world.judge.base_url, "model": "writer"}
    monkeypatch.setattr(folder.world.judge, "answer", lambda prompt: f"Instruction: Speak of it, {len(prompt)}.")
    folder.compare(OTHER, SHIPPED[1], judge, {"concepts": {"n_concepts": N_CONCEPTS}, "methods": few, "prompt_writer": writer})
    code, printed = folder.run_methods(OTHER, targets=[f"figures/{OTHER}/methods.md"])
    assert code == 0, printed[-4000:]
    asked = compared.judged[judged:]
    assert len(asked) == len(set(asked)) == N_CONCEPTS * 3
    prompts = read_summary(STEERING_PROMPTS, folder.path / f"data/{OTHER}/steering_prompts/prompts.parquet")
    assert set(prompts["prompt"]) == {f"Speak of it, {len(prompt)}." for prompt in asked}
    (fitted,) = folder.table("fits", OTHER).filter(method="prompting", concept_id=prompts["concept_id"][0])["values"]
    assert all(prompt in fitted for prompt in prompts["prompt"][:3])
    assert "Steering prompts are written by writer." in (folder.path / f"figures/{OTHER}/methods.md").read_text()
    fits, ratings = folder.table("fits", OTHER), folder.table("judge", OTHER)
    assert set(fits.select("layer", "method").iter_rows()) == {(20, name) for name in few}
    assert ratings.height == N_CONCEPTS * N_PROMPTS * (1 + 1 + 2 + 2)
    assert ratings.filter(pl.col("judge_score").is_null())["reason"].null_count() == 0
    assert (folder.path / f"figures/{OTHER}/methods.md").stat().st_size > 1000


def test_a_list_that_labels_another_sae_is_refused_where_labels_are_used(compared: Compared) -> None:
    folder, name = compared.folder, "small-2b-it-9"
    folder.compare_2b(name=name, layers=[9])
    code, printed = folder.run(f"data/{name}/tables/compared_concepts.parquet", experiment=name, methods=f"[{name}]")
    assert code != 0
    assert "concept10_2b_l10.jsonl, line 1" in printed
    assert "feature 17 of 10-gemmascope-res-16k, but layer 9 has 9-gemmascope-res-16k" in printed
    assert "sae_label, sae_clamp" in printed


def test_a_label_is_of_one_sae_alone(tmp_path: Path) -> None:
    ours, other = "10-gemmascope-res-16k", "20-gemmascope-res-16k"
    path = tmp_path / "metadata.jsonl"
    path.write_text(lines_of(metadata(f"gemma-2-2b/{ours}")))
    labels = [feature for _, _, feature in CONCEPTS]
    rows = [(text_id(concept), concept, feature) for concept, _, feature in CONCEPTS]
    concepts = pl.DataFrame(rows, schema=COMPARED_CONCEPTS.schema, orient="row")

    def kept(saes: dict[int, str], *by_label: str) -> list[int | None]:
        return with_labels(concepts, path, saes, by_label)["label_feature"].to_list()

    assert kept({10: ours}, "sae_label") == kept({}, "sae_label") == labels
    assert kept({20: other}) == [None, None, None]
    with pytest.raises(SettingsError, match=r"line 1: .* feature 17 of 10-.*, but layer 20 has 20-.*, or take sae_label out of methods"):
        kept({20: other}, "sae_label")
    with pytest.raises(SettingsError, match=r"layer 20 has 20-.* is an experiment of its own\)$"):
        kept({10: ours, 20: other})


def test_what_a_step_does_not_depend_on_makes_no_job_due() -> None:
    experiment = load_experiment(SHIPPED[0], ROOT / "config/experiments")

    def due(**changes: Any) -> set[str]:
        changed = experiment.model_copy(update={"methods": experiment.methods.model_copy(update=changes)})
        before, after = (Run(Workflow(experiments=("any",)), "any", one) for one in (experiment, changed))
        return {
            step for step in steps_of(experiment) if plan.params_of_rows(before, step, (10,)) != plan.params_of_rows(after, step, (10,))
        }

    concepts = experiment.methods.concepts.model_copy(update={"n_concepts": 3})
    factors = experiment.methods.factors.model_copy(update={"addition": ("1",)})
    effects = experiment.methods.effects.model_copy(update={"n_vectors": 2000})
    assert due(n_prompts=4) == due(n_samples=2) == due(factors=factors) == set(TEXT_STEPS)
    assert due(concepts=concepts) == due(methods=(*experiment.methods.methods, "sft")) == {"fits", *TEXT_STEPS}
    assert due(effects=effects) == {"effects"}  # whose manifest says that the approximator is fitted on more vectors
