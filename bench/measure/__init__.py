"""Around the worker: memory, energy, environment, latency and accuracy."""
