"""Augmentations on the device: apply(key, images) -> images."""
