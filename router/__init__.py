"""The core: a query in, a decision and an answer out. It knows nothing of HTTP servers and nothing of training."""
