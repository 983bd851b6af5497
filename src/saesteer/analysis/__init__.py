"""One file a formula: scores of features, choices of factors, selection, statistics. Tables in, tables out; no model."""
