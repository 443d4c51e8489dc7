"""Evaluation: suites of benchmarks, measures of every representation, BM25 beside them, reports."""
