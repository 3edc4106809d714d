"""The cost of a run, so far and to come: spending, rates, cost plan, forecast. Imports `ledger` and `planning`."""
