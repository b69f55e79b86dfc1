"""Commands without Ray: evaluate, decide, compare, inspect."""
