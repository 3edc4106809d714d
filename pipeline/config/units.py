"""Units that settings, plans and ledgers share."""

SECONDS_PER_DAY = 86_400
