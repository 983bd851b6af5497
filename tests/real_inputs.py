"""Everything that a real experiment downloads from and asks, on loopback: the hub, Neuronpedia, GitHub and a judge.

The experiment is gemma-2-2b's own file with small sizes laid over it, so that it takes the same way through the code.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from hub_fakes import gemma_scope, random_model
from hub_server import Hub, serve_hub
from judge_server import Judge, judge_server
from loopback import serving_with
from neuronpedia_server import Neuronpedia, an_example, serving, table
from workflow_folder import ROOT, Folder

from saesteer.core.files import file_digest
from saesteer.exchange.neuronpedia import write_export
from saesteer.settings import SaeSettings
from saesteer.sources.neuronpedia.sources import Source
from saesteer.sources.published import PUBLISHED
from saesteer.sources.sae_sources import sae_source

D_MODEL, N_FEATURES, LAYERS = 32, 48, (1, 2)
FEATURES = {1: [0, 7, 31], 2: [4, 5, 40]}
WORDS = ["The", " weather", " in", " the", " north", " was", " cold"]
KEY = "sk-of-this-host"  # as in slurm_node.TOKENS
EXPERIMENT = "small-gemma"


@dataclass
class World:
    """What serves, and what it was asked."""

    hub: Hub
    neuronpedia: Neuronpedia
    judge: Judge
    github: str
    extra: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """Of published files that the project has none of."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which a process finds the hub, and has the judge's key."""
        return {"HF_ENDPOINT": self.hub.url, "OPENAI_API_KEY": KEY, **self.extra}


class RealFolder(Folder):
    """A folder whose runs find everything on loopback."""

    def __init__(self, path: Path, world: World, root: Path = ROOT) -> None:
        super().__init__(path, root)
        self.world = world

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **self.world.environment, "HF_HOME": str(self.path / "home/huggingface")}

    def write(self, **sections: Any) -> None:
        """Write the experiment, and the configuration that names it."""
        saes = {"revision": None, "d_model": D_MODEL, "n_features": N_FEATURES}
        chosen = {
            "extends": "gemma-2-2b",
            "description": "gemma-2-2b's way on small random files",
            "model": {"revision": None},
            "perplexity": {"model": {"revision": None, "dtype": "float32"}},  # not bfloat16, which needs a GPU
            "saes": saes,
            "layers": list(LAYERS),
            "features": {"kind": "explicit", "features": FEATURES},
            "sweep": {
                "published_prefixes": None,
                "prefixes": "config/prefixes.txt",
                "factors": [0, 2, 8],
                "n_prefixes": 4,
                "max_new_tokens": 8,
            },
            "selection": {"late_layers_from": 2, "random_draws": 50, "permutations": 50},
            "judge": {"kind": "endpoint", "base_url": self.world.judge.base_url, "model": "judge", "n_prefixes": 2},
        }
        (self.path / f"config/experiments/{EXPERIMENT}.yaml").write_text(yaml.safe_dump(chosen | sections))
        addresses = self.world.neuronpedia.addresses.model_dump() | {"github": self.world.github}
        values = {"experiments": [EXPERIMENT], "addresses": addresses, "published_digests": self.world.digests}
        (self.path / "config/config.yaml").write_text(yaml.safe_dump(values))


@contextmanager
def small_world(folder: Path) -> Iterator[World]:
    """Serve small files of the forms that gemma-2-2b's experiment downloads, and a judge."""
    with ExitStack() as stack:
        hub = stack.enter_context(serve_hub())
        _fill_hub(hub, folder / "hub")
        for layer in LAYERS:
            write_export(layer_examples(layer), Source("gemma-2-2b", f"{layer}-gemmascope-res-16k"), folder / "exports")
        neuronpedia = stack.enter_context(serving(folder / "exports"))
        judge = stack.enter_context(judge_server(key=KEY))
        github, corpus = folder / "github", PUBLISHED["nltk/webtext"]
        address = stack.enter_context(_serving_files(_github(github)))
        digest = file_digest(github / corpus.repo / corpus.commit / corpus.path)
        yield World(hub, neuronpedia, judge, address, digests={"nltk/webtext": digest})


def _fill_hub(hub: Hub, folder: Path) -> None:
    hub.add("google/gemma-2-2b", random_model(folder / "model", "gemma2", D_MODEL, n_layers=4))
    hub.add("google/gemma-2-9b", random_model(folder / "second", "gemma2", D_MODEL, n_layers=2, seed=1))
    settings = SaeSettings(
        release="gemma-scope-2b-pt-res-canonical", id="layer_{layer}/width_16k/canonical", d_model=D_MODEL, n_features=N_FEATURES
    )
    for layer in LAYERS:
        gemma_scope(folder / "saes" / sae_source(settings, layer).folder, D_MODEL, N_FEATURES, seed=layer)
    hub.add("google/gemma-scope-2b-pt-res", folder / "saes")


def layer_examples(layer: int) -> pl.DataFrame:
    """Max-activating examples of every feature of a layer, as Neuronpedia has them: twelve each, and none of the last one."""
    examples = {
        feature: [an_example(f"{feature:02d}-{rank:02d}", 20.0 - rank, WORDS, (feature + rank % 3) % len(WORDS)) for rank in range(12)]
        for feature in range(N_FEATURES - 1)
    }
    explanations = [[f"mentions of the word{WORDS[feature % len(WORDS)]}"] for feature in range(N_FEATURES)]
    return table(examples | {N_FEATURES - 1: []}, layer).with_columns(explanations=pl.Series(explanations))


def _github(folder: Path) -> Path:
    """The corpus of P1's figure of PMI, a small one of the same form."""
    file = PUBLISHED["nltk/webtext"]
    path = folder / file.repo / file.commit / file.path
    path.parent.mkdir(parents=True)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "webtext/overheard.txt", "\n".join(f"the weather in the {place} was cold" for place in ("north", "south", "house"))
        )
    path.write_bytes(buffer.getvalue())
    return folder


@contextmanager
def _serving_files(folder: Path) -> Iterator[str]:
    """A plain file server's address."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with serving_with(partial(quiet, directory=str(folder))) as address:
        yield address
