"""From token shards to a trained MARS model: the model, its sequences, the ordered loader, training, the ledger."""
