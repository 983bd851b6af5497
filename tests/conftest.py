"""Checks on in every test: shapes and types of the package's public functions (jaxtyping + beartype)."""

from jaxtyping import install_import_hook

install_import_hook("saesteer", "beartype.beartype")
