"""Before a run: what it holds, how much memory and time it takes, and whether it fits at all."""
