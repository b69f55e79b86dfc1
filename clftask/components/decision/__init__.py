"""From logits to probabilities to labels."""
