"""Speed and pictures."""
