"""The shipped world of natural English, as far as experiments read it: its judge."""
