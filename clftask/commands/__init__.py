"""Commands that need no Ray: evaluate, decide, compare, inspect."""
