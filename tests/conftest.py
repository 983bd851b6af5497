"""Checks on in every test: shapes and types of the package's public functions (jaxtyping + beartype)."""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("saesteer", "beartype.beartype")

# How long one example takes says more about the machine than about the code.
settings.register_profile("saesteer", deadline=None)
settings.load_profile("saesteer")
