"""Which rows of its input a job reads."""
