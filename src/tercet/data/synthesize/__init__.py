"""Questions on long articles, written by a language model: MultiLongDoc of the M3 paper."""
