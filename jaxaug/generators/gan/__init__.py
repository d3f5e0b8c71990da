"""The two-player rule and its parts."""
