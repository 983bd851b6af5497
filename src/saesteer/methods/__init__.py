"""Steering methods: one small file each, one row each in `registry`, one signature for all: `fit(problem) -> Intervention`."""
