"""A corpus that a user brings: what is in it, and a recipe that fits it and the machine."""
