"""Train SAEs of other kinds and sparsities on the shipped model and measure them beside its own: `make kinds`."""

import logging
from pathlib import Path

import torch

from saesteer.world import corpus, measure, sae_kinds, train_saes
from saesteer.world.build import MODEL, MODEL_NAME, SAES, THREADS, WorldRecipe
from saesteer.world.lexicon import load_lexicon
from saesteer.world.tokenizer import CONTEXT, build_tokenizer

ROOT = Path(__file__).resolve().parent.parent
WORLD, OUT, LAYERS, SEED = ROOT / "data/world", ROOT / "build/kinds", (3, 6), 0

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
torch.set_num_threads(THREADS)
recipe, lexicon = WorldRecipe(), load_lexicon(WORLD / "lexicon.yaml", ROOT / "config/prefixes.txt")
model, tokenizer = measure.load_model(WORLD / MODEL), build_tokenizer(lexicon)
# The shipped SAEs' texts.
rows = corpus.training_rows(lexicon, tokenizer, SEED, "saes", recipe.sae_documents)
kinds = sae_kinds.KindsRecipe(recipe.sae)
sae_kinds.build_kinds(train_saes.residuals(model, rows), LAYERS, kinds, SEED, MODEL_NAME, CONTEXT, OUT)
held_out = corpus.training_rows(lexicon, tokenizer, SEED, "kinds", recipe.held_out_documents)
folders = {sae_kinds.SHIPPED: WORLD / SAES, **{name: OUT / name for name in sae_kinds.names(kinds)}}
sae_kinds.measure_kinds(train_saes.residuals(model, held_out), LAYERS, folders, OUT)
