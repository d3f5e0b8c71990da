"""Images from a source to the batches of a training."""
