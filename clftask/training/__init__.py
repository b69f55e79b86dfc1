"""What one training worker does."""
