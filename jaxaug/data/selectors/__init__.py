"""Which images of a draw are kept: build(train, *, ...) -> select."""
