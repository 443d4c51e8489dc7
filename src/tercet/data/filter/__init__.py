"""Cleans training rows and raw texts: steps that drop what should not be trained on, and say so."""
