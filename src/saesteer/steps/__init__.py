"""One module a step: its table, keys, settings and inputs, which experiments have it, and how missing rows are computed. And what several
steps share: `step` (what a step is), `keys`, `judges`, and `features`, the table that is made of their rows."""
