"""What a search samples, how it proposes and when it stops."""
