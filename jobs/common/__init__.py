"""Code shared by all command lines: flags, recipes and overrides, exit codes."""
