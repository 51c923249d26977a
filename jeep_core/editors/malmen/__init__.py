"""MALMEN: MEND for thousands of facts at once (Tan et al. 2024)."""
