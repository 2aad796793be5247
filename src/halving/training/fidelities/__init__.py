"""Fidelities say what a unit of resource is, one file each."""
