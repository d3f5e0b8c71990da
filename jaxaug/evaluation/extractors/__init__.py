"""Frozen networks that see images: build(*, ...) -> types.Extractor."""
