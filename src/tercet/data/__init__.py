"""Training rows: readers, and the split that holds a share of them out."""
