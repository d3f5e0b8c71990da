"""Metrics of a classifier: compute(logits, labels, *, ...), one number each."""
