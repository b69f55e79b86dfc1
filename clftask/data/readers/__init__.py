"""Table readers, one class a format."""
