"""A run's folder, its attempts in the ledger, and whether its tokens and language expert fit its recipe. Imports
`config`, `ledger` and the token table."""
