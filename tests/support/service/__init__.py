"""A real store and queue with a played worker or model around them."""
