"""Raw text to training rows: pairs, filters, mixtures and written questions."""
