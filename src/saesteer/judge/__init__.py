"""Judges of generated text. The only one here needs no service: the shipped world's ground truth."""
