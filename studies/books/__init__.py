"""Training of the world of natural English: its tokenizer, models, SAEs and judge, from public-domain books."""
