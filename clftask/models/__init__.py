"""Base models, bundles and prediction."""
