"""`python -m studies.public build MODEL`: what ships of a public model, phase by phase; what is done is not done again."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import polars as pl
import torch
import typer

from saesteer.cli.application import workflow_of
from saesteer.core.files import write_atomically, write_json, write_text
from saesteer.engine.attention import GROUPED
from saesteer.engine.models import LanguageModel, load_language_model
from saesteer.engine.sae_convert import sae_from_folder
from saesteer.rating.sheet import rated_texts
from saesteer.run import open_run
from saesteer.settings import Comparison, Workflow, load_experiment
from saesteer.settings.methods import LabelledTexts
from saesteer.workflow.model_files import model_files
from studies.public import activations, train
from studies.public.activations import Rows
from studies.public.card import MODELS, ship
from studies.public.judges import NAME, model_file, served, texts_file, write_judgements
from studies.public.measure import loss_with_sae, losses_without_sae, quality
from studies.public.recommendations import FOLDER, FURTHER_CONCEPTS, demonstrated, write_recommendations
from studies.public.texts import cleaned, prompts, requests, sampled_parts

N_TEXTS = 10_240
"""Sampled, before cleaning."""
COMPARED_TOKENS = 400_000
BOOK_TOKENS, HELD_OUT_TOKENS, HELD_OUT_EVERY, LOSS_ROWS = 2_850_000, 60_000, 50, 64
KINDS = {
    "batchtopk-32": train.Recipe(k=32),
    "batchtopk-64": train.Recipe(k=64),
    "topk-64": train.Recipe("topk", k=64),
    "jumprelu": train.Recipe("jumprelu"),
}
N_ANSWERS = 120
"""About each concept that methods are compared on, before cleaning: 72 are to be left."""
SHIPPED = train.Recipe(k=64)
SHIPPED_TO = Path("data/public")
CONFIGFILE = Path("config/config.yaml")


@dataclass(frozen=True)
class Job:
    """What a phase is done for."""

    model: str
    paragraphs: Path
    folder: Path
    seed: int

    def lm(self, dtype: str) -> LanguageModel:
        """The model; in bfloat16 twice as fast, and precise enough to write texts and to train SAEs."""
        lm = load_language_model(fetched(self.model), "float32", "cpu", "always", "plain")
        if dtype == "bfloat16":
            lm.model.bfloat16().set_attn_implementation(GROUPED)
        return lm

    def texts(self) -> list[str]:
        """The texts that ship."""
        texts: list[str] = pl.read_parquet(self.folder / "texts.parquet")["text"].to_list()
        return texts

    def book_rows(self, lm: LanguageModel) -> Rows:
        """Rows of the books to train on."""
        return activations.book_rows(lm, self.paragraphs, "train", BOOK_TOKENS, self.seed)

    def written_rows(self, lm: LanguageModel) -> Rows:
        """Rows of the model's texts to train on."""
        return activations.text_rows(lm, [text for place, text in enumerate(self.texts()) if place % HELD_OUT_EVERY])

    def held_out_rows(self, lm: LanguageModel) -> Rows:
        """Rows to measure on: of the books' split `valid`, and a fiftieth of the model's texts."""
        of_books = activations.book_rows(lm, self.paragraphs, "valid", HELD_OUT_TOKENS, self.seed)
        return activations.joined([of_books, activations.text_rows(lm, self.texts()[::HELD_OUT_EVERY])], self.seed)


def fetched(model: str) -> Path:
    """The folder of a model's weights, as its experiment takes them."""
    name = MODELS[model].experiment
    workflow = Workflow(experiments=(name,))
    return model_files(load_experiment(name, *workflow.experiments_dirs).model, workflow, dict).folder


def compared_concepts() -> Sequence[str]:
    """The concepts that docs/plan.md compares methods on."""
    compared = load_experiment("smollm2-methods", *Workflow(experiments=("smollm2-methods",)).experiments_dirs)
    assert isinstance(compared, Comparison)
    assert isinstance(compared.methods.concepts, LabelledTexts)
    return compared.methods.concepts.names


def sample(job: Job) -> None:
    """Texts that the model writes."""
    lm = job.lm("bfloat16")
    choices = prompts(str(lm.tokenizer.bos_token), MODELS[job.model].answers)
    logging.info("%d texts", sum(part.height for part in sampled_parts(lm, choices, N_TEXTS, job.seed, job.folder / "sampled")))


def texts(job: Job) -> None:
    """The texts that ship, each with the concept that it was asked about, and why others do not."""
    answers = MODELS[job.model].answers
    concepts = {prompt.text: prompt.subject for prompt in prompts("", answers)}
    sampled = pl.concat(pl.read_parquet(file) for file in sorted((job.folder / "sampled").glob("*.parquet")))
    of_prompt = pl.col("prompt").replace_strict(concepts, default=None, return_dtype=pl.String)
    shipped, left_out = cleaned(sampled.with_columns(concept=of_prompt))
    shipped.write_parquet(job.folder / "texts.parquet", compression="zstd", compression_level=19)
    numbers = {"sampled": sampled.height, "texts": shipped.height, "left_out": dict(left_out), "answers": answers}
    write_json(job.folder / "texts.json", numbers)
    logging.info("%d of %d texts ship", shipped.height, sampled.height)


def labelled(job: Job) -> None:
    """Answers about the concepts that methods are compared on, which train them: of a model that answers."""
    if not MODELS[job.model].answers:
        return
    lm = job.lm("bfloat16")
    choices = requests(compared_concepts())
    parts = sampled_parts(lm, choices, N_ANSWERS * len(compared_concepts()), job.seed + 1, job.folder / "answers")
    concepts = {prompt.text: prompt.subject for prompt in choices}
    texts, _ = cleaned(pl.concat(parts).with_columns(concept=pl.col("prompt").replace_strict(concepts, return_dtype=pl.String)))
    texts.select("concept", "text").write_parquet(job.folder / "labelled.parquet", compression="zstd", compression_level=19)


def books(job: Job) -> None:
    """Residuals on the books."""
    lm = job.lm("bfloat16")
    activations.store(lm, job.book_rows(lm), MODELS[job.model].layers, job.folder / "books")


def written(job: Job) -> None:
    """Residuals on the model's texts, and on what is held out."""
    lm = job.lm("bfloat16")
    rows = job.written_rows(lm)
    tokens = {"books": int(job.book_rows(lm).used.sum()), "texts": int(rows.used.sum())}
    write_json(job.folder / "tokens.json", tokens)
    activations.store(lm, job.held_out_rows(lm), MODELS[job.model].layers, job.folder / "held_out")
    activations.store(lm, rows, MODELS[job.model].layers, job.folder / "written")


def kinds(job: Job) -> None:
    """SAEs of several kinds at one layer, measured."""
    layer = MODELS[job.model].compared_layer
    x = trained_on(job.folder, layer)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(job.seed))[:COMPARED_TOKENS]]
    build(job, layer, x, {job.folder / "kinds" / name: recipe for name, recipe in KINDS.items()})


def saes(job: Job) -> None:
    """One SAE a layer, measured, rounded and measured again."""
    for layer in MODELS[job.model].layers:
        build(job, layer, trained_on(job.folder, layer), {job.folder / "saes" / f"layer_{layer:02d}": SHIPPED})


Model = Literal["smollm2-135m", "gemma-3-270m"]
Out = Annotated[Path, typer.Option(help="Folder of all models' phases.")]
app = typer.Typer(help=__doc__, add_completion=False)


@app.callback()
def log() -> None:
    """Log to the console."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


@app.command("build")
def build_all(
    model: Model,
    paragraphs: Annotated[Path, typer.Option(help="Parquet file of the books' paragraphs.")],
    out: Out,
    seed: Annotated[int, typer.Option()] = 0,
    threads: Annotated[int, typer.Option()] = torch.get_num_threads(),
) -> None:
    """Write texts, store residuals, train SAEs, phase by phase."""
    torch.set_num_threads(threads)
    for phase in (sample, texts, labelled, books, written, kinds, saes):
        phase(Job(model, paragraphs, out / model, seed))


@app.command()
def adopt(model: Model, out: Out) -> None:
    """Copy texts and SAEs into data/public, with a card."""
    ship(out / model, model, SHIPPED_TO / model)


@app.command()
def recommendations(
    experiment: Annotated[str, typer.Argument(help="A sweep of this package's models that was run here.")],
    cores: Annotated[int, typer.Option()] = 2,
) -> None:
    """What `saesteer recommend` says of the plan's concepts, into docs/recommend; it takes minutes a concept, and goes on where it was."""
    concepts = [*compared_concepts(), *FURTHER_CONCEPTS]
    write_recommendations(workflow_of(CONFIGFILE), experiment, concepts, CONFIGFILE, cores)


@app.command()
def demonstration() -> None:
    """Texts of SmolLM2 steered towards the plan's concept by what `recommend` says, into docs/recommend."""
    run = open_run("smollm2", workflow_of(CONFIGFILE))
    write_text(FOLDER / "demonstration.csv", demonstrated(run, FOLDER / f"{run.name}.csv").write_csv())


@app.command()
def judges(
    experiment: Annotated[str, typer.Argument(help="A comparison of methods on the plan's concepts that was run here.")],
    seed: Annotated[int, typer.Option(help="Of which texts are rated.")] = 0,
    threads: Annotated[int, typer.Option()] = torch.get_num_threads(),
) -> None:
    """Ratings of 300 texts by three judges, and their agreement, into docs/judges: the best part of an hour; answers are kept."""
    run = open_run(experiment, workflow_of(CONFIGFILE))
    with served(model_file(), threads) as base_url:
        write_judgements(run, base_url, NAME, seed)


@app.command("texts")
def keep_texts(experiment: Annotated[str, typer.Argument(help="A comparison of methods that was run here.")]) -> None:
    """All rated texts of a comparison with their concepts and ratings, into docs/methods."""
    run = open_run(experiment, workflow_of(CONFIGFILE))
    write_atomically(texts_file(run.name), partial(rated_texts(run).write_parquet, compression_level=19))


def trained_on(folder: Path, layer: int) -> torch.Tensor:
    """A layer's residuals on the books and on the model's texts: bfloat16 [token, d_model]."""
    return torch.cat([activations.read(folder / part, layer) for part in ("books", "written")])


def build(job: Job, layer: int, x: torch.Tensor, recipes: Mapping[Path, train.Recipe]) -> None:
    """Train, round and measure an SAE of a layer in each folder: full, rounded, metrics.json."""
    recipes = {out: replace(recipe, tokens=len(x)) for out, recipe in recipes.items() if not (out / "metrics.json").exists()}
    for out, recipe in recipes.items():
        train.train_sae(x, recipe, layer, job.model, job.seed, out / "full")
        train.save_rounded(out / "full", out / "rounded")
    if not recipes:
        return
    lm, held_out = job.lm("float32"), activations.read(job.folder / "held_out", layer)
    rows = job.held_out_rows(lm).take(np.arange(LOSS_ROWS))
    without = losses_without_sae(lm, layer, rows)
    for out, recipe in recipes.items():
        metrics: dict[str, object] = {"recipe": asdict(recipe), "seed": job.seed}
        for form in ("full", "rounded"):
            sae = sae_from_folder(out / form, "float32", "cpu")
            loss = loss_with_sae(lm, sae, rows)
            losses = {"loss_recovered": without.recovered(loss), "losses": [without.plain, loss, without.zeros]}
            metrics[form] = asdict(quality(sae, held_out)) | losses
        write_json(out / "metrics.json", metrics)
        logging.info("layer %d: %s", layer, json.dumps(metrics))


if __name__ == "__main__":
    app()
