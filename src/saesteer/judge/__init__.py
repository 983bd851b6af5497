"""Judges of generated text: a language model behind an OpenAI-compatible address, or one that runs here. The former also writes prompts."""
