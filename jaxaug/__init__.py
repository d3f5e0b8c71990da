"""Does generated data help a classifier? Studies that end in a verdict."""
import pathlib

__version__ = '0.1.0'
# `python -m jaxaug.evaluate` goes on working, though it lies in commands/.
__path__.append(str(pathlib.Path(__file__).parent / 'commands'))
