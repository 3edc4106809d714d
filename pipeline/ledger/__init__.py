"""Who held which devices, and what they did with them: rows, account, actor, limits. Imports `runtime` and
`tokenization.files`."""
