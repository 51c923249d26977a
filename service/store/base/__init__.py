"""What the store keeps for its base model: second moments and trained networks."""
