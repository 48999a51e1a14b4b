"""The true architecture with random weights: what `python -m benchmarks gpu` builds and measures."""
