"""HTTP only: OpenAI's API in, decisions and answers out. It knows nothing of training."""
