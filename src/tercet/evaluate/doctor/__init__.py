"""Compares a model or an endpoint with golden vectors of a checkpoint, and says what is wrong."""
