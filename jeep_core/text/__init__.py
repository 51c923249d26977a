"""Strings and tokens: how prompt and answer are joined, chats written, texts encoded; no torch."""
