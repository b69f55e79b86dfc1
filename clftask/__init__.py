"""Distributed training of multiclass and multilabel text classifiers on Ray."""
