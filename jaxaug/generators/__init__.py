"""Generative models: build(spec, *, ...) -> types.GenerativeModel."""
