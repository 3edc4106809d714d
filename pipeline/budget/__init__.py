"""The cost of a run, spent and expected: spending, rates, cost plan, forecast. Imports `ledger` and `planning`."""
