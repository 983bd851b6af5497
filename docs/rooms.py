"""The picture of the package's rooms, docs/rooms.svg: from the imports (grimp), the layers in .importlinter and each room's docstring.

`python docs/rooms.py` draws it anew; tests/test_docs.py compares.
"""

import ast
import configparser
import textwrap
from html import escape
from pathlib import Path

import grimp

from saesteer.core.modules import module_file

ROOT = Path(__file__).parents[1]
WIDTH, ROW, TEXT, NAME = 942, 54, 722, 118
COLOURS = ("#1f5a96", "#a3195b", "#1b7f6b", "#8a6100")
HEAVY = ("torch", "transformers")


def layers() -> list[list[str]]:
    """The rooms from the top down, those that do not import one another together."""
    contract = configparser.ConfigParser()
    contract.read(ROOT / ".importlinter")
    listed = contract["importlinter:contract:rooms"]["layers"].split("\n")
    return [[room.strip() for room in line.split("|")] for line in listed if line.strip()]


def imports(rooms: list[str]) -> dict[str, set[str]]:
    """Room -> rooms and heavy packages that its modules import."""
    graph = grimp.build_graph("saesteer", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None)
    found: dict[str, set[str]] = {}
    for room in rooms:
        modules = {f"saesteer.{room}", *graph.find_descendants(f"saesteer.{room}")}
        names = {name for module in modules for name in graph.find_modules_directly_imported_by(module)}
        found[room] = {name.split(".")[1] if name.startswith("saesteer.") else name for name in names} & {*rooms, *HEAVY} - {room}
    return found


def without_detours(direct: dict[str, set[str]], rooms: list[str]) -> list[tuple[str, str]]:
    """The imports between rooms that no chain of others stands for (the transitive reduction)."""
    below: dict[str, set[str]] = {}
    for room in reversed(rooms):
        inner = direct[room] & set(rooms)
        below[room] = inner.union(*(below[other] for other in inner))
    return [
        (room, to) for room in rooms for to in rooms if to in direct[room] and not any(to in below[by] for by in direct[room] & set(rooms))
    ]


def purpose(room: str) -> str:
    """The first sentence or so of a room's docstring."""
    file = module_file(ROOT / "src/saesteer", room)
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0].replace("\n", " ").replace("`", "")


def picture() -> str:
    """The SVG: one row per room, from the top down; an arc from each room down to those that it imports."""
    stacked = layers()
    rooms = [room for layer in stacked for room in layer]
    direct = imports(rooms)
    top = {room: 12 + ROW * place for place, room in enumerate(rooms)}
    parts = [_band(top[layer[0]], len(layer), number) for number, layer in enumerate(stacked)]
    parts += [_room(room, top[room], bool(direct[room] & set(HEAVY))) for room in rooms]
    arcs = without_detours(direct, rooms)
    parts += [_arc(top[one] + ROW * 0.62, top[to] + ROW * 0.38, rooms.index(one) % len(COLOURS)) for one, to in arcs]
    height = ROW * len(rooms) + 24
    style = "text{font-family:sans-serif;fill:#222}.name{font-size:17px;font-weight:bold}.what{font-size:12.5px}"
    style += ".torch{font-size:11px;fill:#a3195b}"
    tips = "".join(
        f'<marker id="tip{number}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'
        for number, colour in enumerate(COLOURS)
    )
    head = f"<defs>{tips}</defs>"
    box = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
            f"<style>{style}</style>",
            head,
            box,
            *parts,
            "</svg>",
            "",
        ]
    )


def _band(y: float, n: int, number: int) -> str:
    return f'<rect x="8" y="{y + 2}" width="{TEXT}" height="{ROW * n - 4}" rx="6" fill="{"#eef3f8" if number % 2 else "#e1eaf3"}"/>'


def _room(room: str, y: float, heavy: bool) -> str:
    lines = textwrap.wrap(purpose(room), 88, max_lines=3, placeholder=" …")
    first = y + ROW / 2 + 4 - 7.5 * (len(lines) - 1)
    texts = [f'<text x="20" y="{y + ROW / 2 + (0 if heavy else 6)}" class="name">{room}</text>']
    texts += [f'<text x="20" y="{y + ROW / 2 + 16}" class="torch">torch</text>'] if heavy else []
    texts += [f'<text x="{20 + NAME}" y="{first + 15 * place}" class="what">{escape(line)}</text>' for place, line in enumerate(lines)]
    return "".join(texts)


def _arc(start: float, end: float, colour: int) -> str:
    x, reach = TEXT + 10, min(TEXT + 30 + 0.42 * (end - start), WIDTH + 45)
    path = f"M{x} {start:g} C{reach:g} {start:g} {reach:g} {end:g} {x + 3} {end:g}"
    return f'<path d="{path}" fill="none" stroke="{COLOURS[colour]}" stroke-width="1.4" marker-end="url(#tip{colour})"/>'


if __name__ == "__main__":
    (ROOT / "docs/rooms.svg").write_text(picture(), encoding="utf-8")
