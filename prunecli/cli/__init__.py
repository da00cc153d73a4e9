"""The command line: the only part that prints or exits. Commands import what is heavy when they run."""

from __future__ import annotations

from prunecli.cli.app import main

__all__ = ["main"]
