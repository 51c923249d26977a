"""Requests to servers of others: how one is sent, and how their texts are read."""
