"""What is wrong with a machine: opinions on the facts, each with its evidence and its fix."""
