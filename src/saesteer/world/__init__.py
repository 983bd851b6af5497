"""The shipped world: a grammar with labels, the model and SAEs trained on its text, and the judge that knows its truth."""
