"""Train a model of another architecture and its SAEs on the shipped world's grammar: `make architecture NAME=llama`."""

import argparse
import logging
from pathlib import Path

import torch

from saesteer.world.architectures import ARCHITECTURES, build_architecture
from saesteer.world.build import THREADS, Build, WorldRecipe
from saesteer.world.lexicon import load_lexicon
from saesteer.world.tokenizer import build_tokenizer

ROOT = Path(__file__).resolve().parent.parent

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("name", choices=list(ARCHITECTURES))
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
torch.set_num_threads(THREADS)
lexicon = load_lexicon(ROOT / "data/world/lexicon.yaml", ROOT / "config/prefixes.txt")
folder = ROOT / f"build/world/{options.name}"
build_architecture(Build(folder, lexicon, build_tokenizer(lexicon), options.seed, WorldRecipe()), options.name)
