"""Recipes, one file each with a function `recipe()`."""
