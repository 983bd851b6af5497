"""One module a step: its table, keys, settings and inputs, which experiments have it, and how missing rows are computed."""
