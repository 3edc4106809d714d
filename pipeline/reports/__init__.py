"""Tables and pages for a person: dry runs, costs, budgets, what was learned, model cards. Imports any package below."""
