"""Errors that a user can mend: each message says what is wrong, where (file, key, row), and what to do."""


class SaesteerError(Exception):
    """The base of them all, which every command shows as one message without a traceback."""


class SettingsError(SaesteerError, ValueError):
    """Something wrong with the configuration or a file that it names."""


class NotFiniteError(SaesteerError, ArithmeticError):
    """Numbers of a model that are NaN or infinite."""

    def __init__(self, message: str, row: int = 0) -> None:
        super().__init__(message)
        self.row = row  # the first of them, by its place among those computed together
