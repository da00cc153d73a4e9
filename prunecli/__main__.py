"""`python -m prunecli`."""

from prunecli.cli import main

if __name__ == "__main__":
    # Processes that carry seeds out import this module again.
    main()
