"""Judges of generated text: sentence embeddings, a language model that runs here, or one behind an OpenAI-compatible address, which also
writes prompts."""
