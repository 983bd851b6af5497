"""The shipped world of natural English: models, SAEs and a judge trained on public-domain books."""
