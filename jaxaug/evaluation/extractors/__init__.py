"""Frozen networks that give features: build(*, ...) -> types.Extractor."""
