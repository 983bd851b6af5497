"""Steering methods: functions `Problem -> Intervention`, one file per method with its variants, one row each in settings/methods.csv."""
