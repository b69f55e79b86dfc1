"""Distributed training of multiclass and multilabel text classifiers on Ray."""

from clftask.registration import register_when_needed

register_when_needed()
