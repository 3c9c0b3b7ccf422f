"""Effects on the model: edges replaced by formulas, ablated one at a time, or pruned."""
