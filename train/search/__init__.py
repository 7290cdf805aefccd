"""Search over settings: many configurations of one recipe."""
