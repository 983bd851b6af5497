"""Steering methods: `fit(problem) -> Intervention`, a file each, a row each in settings/methods.csv."""
