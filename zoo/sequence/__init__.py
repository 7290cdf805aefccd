"""Networks on sequences of numbers."""

from zoo.sequence.regressor import AdditiveAttention, AttentionRegressor, SequenceRegressor

__all__ = ["AdditiveAttention", "AttentionRegressor", "SequenceRegressor"]
