"""One file a recipe; each has a function `recipe()`."""
