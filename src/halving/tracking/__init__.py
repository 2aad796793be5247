"""Who watches a study: the terminal, tables, TensorBoard and W&B, all told by its events."""
