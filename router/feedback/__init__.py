"""What comes back of decisions: events, and the durable store that keeps them."""
