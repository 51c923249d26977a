"""Second moments of a base model: sums, cache, published and shipped statistics, factors."""
