"""Tables and pages for a person: dry runs, costs, budgets, token datasets, runs, model cards. Imports any other
package."""
