"""What all command lines share: flags, recipes and overrides, exit codes."""
