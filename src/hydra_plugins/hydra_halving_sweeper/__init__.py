"""`hydra/sweeper=halving` for any Hydra app."""
