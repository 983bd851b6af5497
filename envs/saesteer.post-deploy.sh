#!/usr/bin/env bash
# Runs in the new environment, in the repo root: torch first, and exactly so; then the lock; then the package itself.
set -euo pipefail
python -m pip install torch==2.13.0
python -m pip install uv==0.13.9
python -m uv pip install --reinstall --no-deps --require-hashes --build-constraints requirements.lock --requirement requirements.lock
python -m uv pip install --no-deps --build-constraints requirements.lock --editable .
