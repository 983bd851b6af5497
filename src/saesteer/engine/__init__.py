"""Running a model: forwards, SAEs, steering, generation, and the scores that need a forward. Torch."""

import os

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
"""Products of Intel's library add up each row's terms in one order, whatever the number of rows and threads; read at the first product. By
default products over 1,024 terms or more do not."""
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
"""A thread that waits for another looks so often before it sleeps: some microseconds. By default it looks on, and takes minutes for a
second's work where the other's core is busy; one that sleeps at once wakes late, which takes half as long again. Read when torch is
imported."""
