"""Training of the shipped world: its tokenizer, models, SAEs and judge, from the texts that the grammar writes."""
