"""From tables to tokenised splits."""
