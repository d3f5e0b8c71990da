"""The stages of a study: each has its tasks, with VERSION, key and work."""
