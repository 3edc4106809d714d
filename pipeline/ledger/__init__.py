"""Ledger of devices: rows of what each job held and did, the account behind them, the actor, limits. Imports `runtime`
and `tokenization.files`.
"""
