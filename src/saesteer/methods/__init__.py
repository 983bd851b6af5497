"""Steering methods: fit/ makes an intervention of a concept, compare/ says which method is better."""
