"""Train one seed of the shipped world from nothing and show its metrics beside the shipped ones: `make world SEED=n`."""

import argparse
import json
import logging
import sys
from pathlib import Path

from saesteer.world.build import METRICS, WorldRecipe, build_world
from saesteer.world.card import comparison

ROOT = Path(__file__).resolve().parent.parent

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--out", type=Path, required=True)
options = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
shipped = ROOT / "data" / "world"
built = build_world(shipped / "lexicon.yaml", ROOT / "config" / "prefixes.txt", options.out, options.seed, WorldRecipe())
sys.stdout.write(comparison(built, json.loads((shipped / METRICS).read_text(encoding="utf-8"))))
