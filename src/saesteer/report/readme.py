"""The README's tables and figure, taken from results: nobody types a number.

Results are kept in docs/results/EXPERIMENT.json (copies of metrics.json), the README holds what is generated from them between markers,
and a test compares the two.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saesteer.core.files import write_atomically, write_json, write_text
from saesteer.report.headline import findings_by_seed_markdown, headline_markdown
from saesteer.report.method_readme import kept_results, methods_readme
from saesteer.report.scored import scores_by_layer, scores_markdown
from saesteer.settings import SettingsError, load_experiment

SHIPPED = "tiny"
SCORED = "tiny-all"
"""The shipped model's experiment with every feature."""
COMPARED = ("tiny-methods", "tiny-methods-seed-1", "tiny-methods-seed-2")
"""The comparisons of steering methods on the world's three seeds, in order."""


def update_readme(root: Path) -> list[Path]:
    """Take over finished experiments' results, write the README's generated blocks anew; gives the files written."""
    experiments = root / "config/experiments"
    seeds = [path.stem for path in sorted(experiments.glob("*.yaml")) if _is_seed(path.stem, experiments)]
    finished = {name: root / f"data/{name}/metrics.json" for name in seeds}
    taken = [name for name, path in finished.items() if path.is_file()]
    for name in taken:
        write_json(root / f"docs/results/{name}.json", json.loads(finished[name].read_text(encoding="utf-8")))
    if scored := list((root / f"data/{SCORED}/features").glob("layer_*.parquet")):
        write_json(root / f"docs/scores/{SCORED}.json", scores_by_layer(scored))
    for name in COMPARED:
        if (table := root / f"data/{name}/tables/methods.parquet").is_file():
            write_json(root / f"docs/methods/{name}.json", kept_results(table))
    _copy_figure(root / f"figures/{SHIPPED}/overview.png", root / "docs/overview.png")
    _copy_figure(root / f"figures/{COMPARED[0]}/methods.png", root / "docs/methods.png")
    readme = root / "README.md"
    text = with_blocks(readme.read_text(encoding="utf-8"), blocks(root))
    write_text(readme, text)
    return [readme, *(root / f"docs/results/{name}.json" for name in taken)]


def _copy_figure(figure: Path, target: Path) -> None:
    if figure.is_file():
        write_atomically(target, lambda partial: shutil.copyfile(figure, partial))


def _is_seed(name: str, experiments: Path) -> bool:
    """The experiments that differ from the shipped one in the world's training seed only."""
    return name == SHIPPED or (name.startswith(f"{SHIPPED}-seed-") and load_experiment(name, experiments).seed_of_world is not None)


def blocks(root: Path) -> dict[str, str]:
    """Name -> generated text of each block of the README."""
    results: dict[str, Mapping[str, Any]] = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((root / "docs/results").glob("*.json"))
    }
    if SHIPPED not in results:
        raise SettingsError("docs/results/tiny.json is missing: run `make figures`, then `make readme`")
    seeds = {load_experiment(name, root / "config/experiments").seed_of_world: numbers for name, numbers in results.items()}
    speed = speed_markdown((root / "benchmarks/RESULTS.md").read_text(encoding="utf-8"))
    scores = json.loads((root / f"docs/scores/{SCORED}.json").read_text(encoding="utf-8"))
    kept = {seed: root / f"docs/methods/{name}.json" for seed, name in enumerate(COMPARED)}
    compared = {seed: json.loads(path.read_text(encoding="utf-8")) for seed, path in kept.items() if path.is_file()}
    shown = {"headline": headline_markdown(results[SHIPPED]), "seeds": findings_by_seed_markdown(seeds)}
    return {**shown, "methods": methods_readme(compared), "scores": scores_markdown(scores), "speed": speed}


def speed_markdown(page: str) -> str:
    """The two tables of the benchmark's page, one heading level lower; then each of its sections with its command and what it found."""
    start, end = page.index("## Output score"), page.index("## Share of the machine")
    lines = ["### All measurements", "", "| measured | command | in short |", "|---|---|---|"]
    for section in re.split(r"^(?=# )", page, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0].removeprefix("# ")
        command, short = re.search("^Written by (`.*?`)", section, re.MULTILINE), re.search("^In short: (.*)$", section, re.MULTILINE)
        if not (command and short):
            raise SettingsError(
                f"benchmarks/RESULTS.md, {title}: a section says `Written by COMMAND` and `In short:`; run its benchmark again"
            )
        lines.append(f"| [{title}](benchmarks/RESULTS.md#{_anchor(title)}) | {command[1]} | {short[1]} |")
    return "\n".join([page[start:end].replace("## ", "### ").strip(), "", *lines]) + "\n"


def _anchor(title: str) -> str:
    """Of a heading, as GitHub and GitLab make it."""
    return re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-")


def with_blocks(text: str, generated: Mapping[str, str]) -> str:
    """The text with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced."""
    for name, block in generated.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, found_start, rest = text.partition(start)
        _, found_end, after = rest.partition(end)
        if not (found_start and found_end):
            raise SettingsError(f"README.md has no lines <!-- {name} --> and <!-- /{name} -->: put them back where the table belongs")
        text = f"{before}{start}{block}{end}{after}"
    return text
