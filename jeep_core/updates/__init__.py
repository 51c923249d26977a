"""Closed forms and projections: pure functions on tensors that know no model and no editor."""
