"""Multi-fidelity hyperparameter optimisation for PyTorch under Hydra."""
