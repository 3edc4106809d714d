"""What a user asks of generation: prompts checked, generators run on Ray Data, results written. Imports `generation`,
`pages` and `runs`."""
