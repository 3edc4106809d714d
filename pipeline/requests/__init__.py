"""A user's requests to generate: checked prompts, generators on Ray Data, written results. Imports `generation`,
`pages` and `runs`.
"""
