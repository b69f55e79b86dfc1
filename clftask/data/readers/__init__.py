"""Table readers, one class per format."""
