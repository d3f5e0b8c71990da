"""What is left out of a set of images: build(known, *, ...) -> select.

select(images uint8 [N, H, W, C], labels int [N]) -> {reason in plain words:
bool [N], what is dropped for it}, of a whole set at once. A selector that looks
at more than the labels of the training split says in NEEDS at what: fields of
types.Known, or 'pixels', all training images at once.
"""
