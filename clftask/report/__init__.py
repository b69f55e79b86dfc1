"""HTML reports of bundles."""
