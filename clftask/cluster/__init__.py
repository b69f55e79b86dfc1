"""What runs on Ray; nothing outside this package imports it."""
