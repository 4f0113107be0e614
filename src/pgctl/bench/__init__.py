"""Benchmarks of the engine's operations. Policy is Python's, the timed loops are C's."""
