"""Tables of the open questions: each module has a `SUMMARY`."""
