"""What Redis holds: cost, latency and load. It knows nothing of prompts."""
