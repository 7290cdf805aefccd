"""What becomes of a trained run for others: a folder with its weights and its card, here or on the hub."""
