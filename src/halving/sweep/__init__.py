"""Any Hydra app as what is tuned: `hydra/sweeper=halving`."""
