"""Shows what neural-network pruning does to generalization."""

__version__ = "0.1.0"
