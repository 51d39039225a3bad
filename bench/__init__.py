"""Benchmarks: ``python -m bench COMMAND``. Durability is equal on all sides, and counted."""
