"""Disks and object stores, and local temporary folders."""
