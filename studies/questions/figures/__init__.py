"""Figures of the open questions: each module has a `FIGURE`."""
