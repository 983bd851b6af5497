"""Running a model: forwards, SAEs, steering, generation, and the scores that need a forward. Torch."""

import os

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
"""Products of Intel's library add up each row's terms in one order, whatever the number of rows and threads; read at the first product. By
default products over 1,024 terms or more do not."""
