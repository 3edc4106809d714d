"""The cost of a run, so far and to come: spending, measured rates, cost plan, forecast. Imports `ledger` and `planning`."""
