"""Sources of training rows, mixed by weight and language and written by length."""
