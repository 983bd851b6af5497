"""The public language models that ship with SAEs: texts that they write, their SAEs, and the cards of both."""
