"""Sources of labelled images: load(*, ...) -> types.Dataset."""
