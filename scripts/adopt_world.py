"""Ship build/world/seed_0 with the metrics of every seed built beside it, and write the card: `make world-adopt`."""

import json
from pathlib import Path

from saesteer.world.build import CARD, TOPICS, adopt
from saesteer.world.card import render_card

ROOT = Path(__file__).resolve().parent.parent

shipped = ROOT / "data" / "world"
metrics = adopt(ROOT / "build" / "world", shipped)
topics = json.loads((shipped / TOPICS).read_text(encoding="utf-8"))
(shipped / CARD).write_text(render_card(metrics, topics), encoding="utf-8")
