"""Base models, bundles and predictions."""
