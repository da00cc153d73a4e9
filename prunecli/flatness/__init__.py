"""Flatness: how a trained network's loss curves and rises around its weights, and how gradients vary over examples."""

from prunecli.flatness import observing

__all__ = ["observing"]
