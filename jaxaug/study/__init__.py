"""A study from its config to its report."""
