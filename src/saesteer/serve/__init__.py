"""A steered model behind HTTP on this machine: the report's pages with a model to steer, and OpenAI's form of completions."""
