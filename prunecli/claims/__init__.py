"""The papers' claims, each with its rule, set beside what stored runs show."""
