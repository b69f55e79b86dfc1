"""What a job will cost."""
