"""Metrics of a set of images beside another: compute(real, fake, *, ...)."""
