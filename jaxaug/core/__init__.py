"""What every room leans on: types, errors, files, signals, the terminal."""
