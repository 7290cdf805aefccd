"""Episodes of few-shot learning: each example is a whole task, with a support set and a query set."""

from data.episodes import few_shot_folder, omniglot, sinusoid

__all__ = ["few_shot_folder", "omniglot", "sinusoid"]
