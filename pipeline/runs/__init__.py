"""The folder of a run, its attempts in the ledger, and checks that its tokens and language expert fit its recipe.
Imports `config`, `ledger` and the token table.
"""
