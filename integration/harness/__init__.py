"""What tests and demo start and stop: programs, containers, registries, models.

Everything lives in one temporary directory and one process namespace
(:mod:`integration.harness.machine`), so nothing outlives the run that started it.
"""
