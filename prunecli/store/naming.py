"""What a run's folder is called; nothing here imports what is heavy."""

from __future__ import annotations

DIGEST = r"-[0-9a-f]{8}"
"""What a run's folder adds to its label."""
