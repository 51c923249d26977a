"""A module for each kind of target: how its servers are asked and told."""
