"""The README's and the documentation's tables and figures of results: nobody types a number.

Results are kept in docs/results/EXPERIMENT.json (copies of metrics.json), docs/methods/, docs/open-questions/ and docs/scores/; the
pages hold what is generated
from them between markers, and a test compares the two.
"""

import json
import shutil
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from saesteer.core.files import write_atomically, write_json, write_text
from saesteer.report import effect_readme, kind_readme, model_readme, open_questions, persistence_readme, record_readme
from saesteer.report.headline import findings_markdown, headline_markdown
from saesteer.report.method_readme import keep_results, methods_markdown, pool_results, published_order_markdown
from saesteer.report.sae_docs import classes_markdown
from saesteer.report.scored import scores_by_layer, scores_markdown
from saesteer.settings import SettingsError, load_experiment, settings_of

SHIPPED = "tiny"
SCORED = "tiny-all"
"""The shipped model's experiment with every feature."""
BOOKS = "books"
"""P1's experiment on the books' model."""
COMPARED = ("tiny-methods", "tiny-methods-seed-1", "tiny-methods-seed-2")
"""The comparisons of steering methods on the world's three seeds, in order."""
BOOKS_COMPARED = ("books-methods",)
"""The same on the books' model."""
ASKED = ("tiny-brute", "tiny-brute-seed-1", "tiny-brute-seed-2", "books-brute")
"""Experiments on what the papers leave open."""
RECORDED = ("data/books-brute/tables/features.parquet", "data/books-paragraphs/features/layer_*.parquet")
"""The same features by records from the texts of the books' model, and from the books."""
EFFECTS = {"tiny-effects": "docs/effects", "tiny-effects-llama": "docs/effects/llama", "tiny-effects-neox": "docs/effects/neox"}
"""Experiment on the approximator of steering's effects -> the folder that keeps its results, the shipped model's first."""
SHIPPED_EFFECTS = next(iter(EFFECTS))
EFFECT_LAYERS = "tiny-effects-layers"
"""The experiment on what later layers read of them."""
LONG = "books-long"
"""The comparison of methods in long texts on the books' model."""
KINDS = {"kinds": kind_readme.GRAMMAR, "books-kinds": kind_readme.BOOKS}
"""Block -> a shipped model's SAEs of other kinds."""
FIGURES = {
    "overview": "tiny/overview",
    "methods": "tiny-methods/methods",
    "tiny-brute": "tiny-brute/choice_rules",
    "effects": "tiny-effects/effects",
    "books": "books/overview",
    "books-brute": "books-brute/choice_rules",
    "books-methods": "books-methods/methods",
    "persistence": "books-long/persistence",
}
"""Figure of the documentation -> the figure that it is a copy of."""
PAGES = {
    "headline": "README.md",
    "seeds": "docs/tutorial.md",
    "scores": "docs/own-models.md",
    "saes": "docs/own-models.md",
    "methods": "docs/methods.md",
    "p4": "docs/findings.md",
    "books": "docs/books.md",
    "books-records": "docs/books.md",
    "books-seeds": "docs/books.md",
    "books-methods": "docs/books.md",
    "models": "docs/open-questions.md",
    "growth": "docs/open-questions.md",
    "kinds": "docs/open-questions.md",
    "books-kinds": "docs/open-questions.md",
    "persistence": "docs/open-questions.md",
    "open-effects": "docs/open-questions.md",
    "effects-models": "docs/open-questions.md",
    "effects-layers": "docs/open-questions.md",
    **dict.fromkeys([*open_questions.BLOCKS, *open_questions.OVER_SEEDS], "docs/open-questions.md"),
}
"""Generated block -> the page that holds it."""


def update_readme(root: Path) -> list[Path]:
    """Take over finished experiments' results, write the pages' generated blocks anew; gives the files written."""
    taken = _keep_headlines(root)
    _keep_comparisons(root)
    _keep_questions(root)
    for name, figure in FIGURES.items():
        _copy_figure(root / f"figures/{figure}.png", root / f"docs/{name}.png")
    for name, block in blocks(root).items():
        page = root / PAGES[name]
        write_text(page, with_block(PAGES[name], page.read_text(encoding="utf-8"), name, block))
    return [*(root / page for page in dict.fromkeys(PAGES.values())), *taken]


def _keep_headlines(root: Path) -> list[Path]:
    """Copies of finished experiments' metrics, and scores layer by layer; gives the copies."""
    experiments, taken = root / "config/experiments", []
    seeds = [path.stem for path in sorted(experiments.glob("*.yaml")) if _is_seed(path.stem, experiments)]
    for name in (*seeds, *model_readme.RESULTS):
        finished = root / f"data/{name}/metrics.json"
        if finished.is_file():
            taken.append(root / f"docs/results/{name}.json")
            write_json(taken[-1], json.loads(finished.read_text(encoding="utf-8")))
    if not (root / f"docs/results/{SHIPPED}.json").is_file():
        raise SettingsError(f"docs/results/{SHIPPED}.json is missing: run `make figures`, then `make readme`")
    if scored := list((root / f"data/{SCORED}/features").glob("layer_*.parquet")):
        write_json(root / f"docs/scores/{SCORED}.json", scores_by_layer(scored))
    return taken


def _keep_comparisons(root: Path) -> None:
    """Comparisons of steering methods, pooled over the seeds of their world."""
    for folder, names in {"docs/methods": COMPARED, "docs/books/methods": BOOKS_COMPARED}.items():
        for name in names:
            if (root / f"data/{name}/tables/method_damage.parquet").is_file():
                keep_results(root / f"data/{name}/tables", root / folder / name)
        compared = list(takewhile(Path.is_dir, (root / folder / name for name in names)))
        if compared:
            pool_results(compared, settings_of(load_experiment(names[0], root / "config/experiments")), root / folder)


def _keep_questions(root: Path) -> None:
    """Tables of what the papers leave open."""
    for name in ASKED:
        if (root / f"data/{name}/tables/data_sizes.parquet").is_file():
            open_questions.keep_results(root / f"data/{name}/tables", root / open_questions.KEPT / name)
    for name, folder in EFFECTS.items():
        if (root / f"data/{name}/tables/effect_multiples.parquet").is_file():
            effect_readme.keep_results(root / f"data/{name}/tables", root / folder)
    if (later := root / f"data/{EFFECT_LAYERS}/tables/effect_layers.parquet").is_file():
        effect_readme.keep_layers(later, root / EFFECTS[SHIPPED_EFFECTS])
    for kinds in KINDS.values():
        kind_readme.keep_results(root, kinds)
    if (long := root / f"data/{LONG}/tables/persistence.parquet").is_file():
        persistence_readme.keep_results(long, root / "docs/books")
    model_readme.keep_results(root)
    own, books = (list(root.glob(pattern)) for pattern in RECORDED)
    if own and books:
        record_readme.keep_results(own, books, load_experiment(ASKED[-1], root / "config/experiments").selection, root / "docs/books")


def _copy_figure(figure: Path, target: Path) -> None:
    if figure.is_file():
        write_atomically(target, lambda partial: shutil.copyfile(figure, partial))


def _is_seed(name: str, experiments: Path) -> bool:
    """The experiments that differ from the shipped one in the world's training seed only."""
    return name == SHIPPED or (name.startswith(f"{SHIPPED}-seed-") and load_experiment(name, experiments).seed_of_world is not None)


def blocks(root: Path) -> dict[str, str]:
    """Name -> generated text of each block."""
    results: dict[str, Mapping[str, Any]] = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((root / "docs/results").glob("*.json"))
    }
    numbered = ((load_experiment(name, root / "config/experiments").seed_of_world, numbers) for name, numbers in results.items())
    seeds = {seed: numbers for seed, numbers in numbered if seed is not None}
    scores = json.loads((root / f"docs/scores/{SCORED}.json").read_text(encoding="utf-8"))
    by_seed = {str(seed): seeds[seed] for seed in sorted(seeds)}
    shown = {"headline": headline_markdown(results[SHIPPED]), "seeds": findings_markdown("seed", by_seed)}
    kept = root / "docs/methods"
    methods = {"methods": methods_markdown(kept), "p4": published_order_markdown(kept)}
    methods |= {"books-methods": methods_markdown(root / "docs/books/methods")}
    methods |= {block: kind_readme.kinds_markdown(root, kinds) for block, kinds in KINDS.items()}
    shown |= {"books": headline_markdown(results[BOOKS]), "books-records": record_readme.records_markdown(root / "docs/books")}
    asked = {**open_questions.blocks(root), **effect_readme.blocks({name: root / folder for name, folder in EFFECTS.items()})}
    asked["persistence"] = persistence_readme.persistence_markdown(root / "docs/books")
    return {
        **shown,
        **model_readme.blocks(root, results),
        "scores": scores_markdown(scores),
        "saes": classes_markdown(),
        **methods,
        **asked,
    }


def with_block(page: str, text: str, name: str, block: str) -> str:
    """A page's text with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, opened, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise SettingsError(f"{page} has no lines <!-- {name} --> and <!-- /{name} -->: put them back where the table belongs")
    return f"{before}{start}{block}{end}{after}"
