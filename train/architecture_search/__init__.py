"""Architecture search (guide, section 13.1): random search, evolution, reinforcement learning, gradients."""
