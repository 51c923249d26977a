"""JEEP: a low region enriches the subject, a high region promotes the answer (AAAI 2025)."""
