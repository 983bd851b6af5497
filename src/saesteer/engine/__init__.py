"""Running a model: forwards, SAEs, steering, generation, and the scores that need a forward. Torch."""
