"""Search spaces, searchers and trial schedulers."""
