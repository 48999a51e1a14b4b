"""RESULTS.md: a section a benchmark, each from its rows."""
