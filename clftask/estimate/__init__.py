"""What a job will cost: a sample of it is measured on this machine, and nothing is written."""
