"""Jobs on a remote Ray cluster."""
