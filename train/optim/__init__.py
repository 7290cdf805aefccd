"""Optimizers, schedules, and what is trained of a model."""
