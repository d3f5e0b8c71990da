"""The loop and what a training needs around it."""
