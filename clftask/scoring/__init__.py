"""The score table: plan, input, workers, receipts and manifest."""
