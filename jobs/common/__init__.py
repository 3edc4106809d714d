"""What the jobs share: flags, recipes, folders, exit codes, sheets of pictures."""
