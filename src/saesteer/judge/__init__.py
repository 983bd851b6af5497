"""Judges of generated text: the shipped world's ground truth, a language model behind an endpoint, or one that runs here."""
