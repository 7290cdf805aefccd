"""Training for the models of the zoo: tasks, plans, optimizers, the loop, runs and their command line."""
