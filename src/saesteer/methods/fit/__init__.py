"""Steering methods: functions `Problem -> Intervention`, a file a method with its variants, a row each in settings/methods.csv."""
