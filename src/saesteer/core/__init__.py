"""What every room rests on: files and digests, tables, the part store, tokens, random numbers by counter, intervals, errors."""
