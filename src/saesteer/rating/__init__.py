"""Texts rated by people who do not know where they come from, and how far they agree with the judge."""
