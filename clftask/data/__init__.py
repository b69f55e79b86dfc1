"""Data preparation: table readers, splits and tokenisation."""
