"""Errors that a user can mend: each message says what is wrong, where (file, key, row), and what to do."""


class SaesteerError(Exception):
    """The base of them all, which every command shows as one message without a traceback."""


class SettingsError(SaesteerError, ValueError):
    """Something wrong with the configuration or a file that it names."""
