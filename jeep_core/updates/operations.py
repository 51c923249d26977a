"""Operations of the two forms of the closed-form update; needs no torch."""

from __future__ import annotations

SMALLEST_BLOCK = 256


def block_of(d_ff: int) -> int:
    """How many kept keys of size ``d_ff`` are summed at a time.

    With d_ff / 4 in a block, solving with those after the last one costs about as much as a
    block's factor does, spread over the edits until the next one.
    """
    return max(SMALLEST_BLOCK, d_ff // 4)


def small_form_operations(d_ff: int, m: int, n: int, unsolved: int) -> float:
    """Floating-point operations of the small form for ``m`` new keys of ``n`` in all.

    d²u (L⁻¹K for u keys not solved before) + 2dn² (Gram matrix) + n³/3 (its factor)
    + 2n²m + 2dnm + d²m (back to d_ff).  The factor L counts nothing: it is made once.
    """
    half = d_ff**2 * unsolved
    return half + 2 * d_ff * n**2 + n**3 / 3 + 2 * n**2 * m + 2 * d_ff * n * m + d_ff**2 * m


def dense_form_operations(d_ff: int, m: int, n: int) -> float:
    """Floating-point operations of the dense form: 2d²n (K Kᵀ) + d³/3 (factor) + 2d²m."""
    return 2 * d_ff**2 * n + d_ff**3 / 3 + 2 * d_ff**2 * m
