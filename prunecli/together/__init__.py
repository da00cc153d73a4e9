"""The seeds of a run trained together: fully connected networks of one shape as one batched matrix product."""
