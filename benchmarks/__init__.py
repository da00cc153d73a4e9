"""What prunecli's speed is measured by: `python -m benchmarks`, from the repository's root."""
