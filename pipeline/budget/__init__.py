"""What a run has cost and will cost: spending, measured rates, cost plan, forecast. Imports `ledger` and `planning`."""
