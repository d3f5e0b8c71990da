"""Networks that tell classes apart: build(spec, *, ...) -> flax module."""
