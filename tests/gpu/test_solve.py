"""The closed form on the accelerator: float32 factors, float64 results."""

from __future__ import annotations

import pytest
import torch

from jeep_core.moments.factors import MomentFactor
from jeep_core.updates.least_squares import solve_update

D, D_FF = 16, 512


def moment(condition):
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(D_FF, D_FF, dtype=torch.float64))
    scales = torch.logspace(0, -torch.tensor(condition).log10(), D_FF, dtype=torch.float64)
    return (basis * scales) @ basis.T


@pytest.mark.parametrize(
    ("condition", "precision"), [(1e3, torch.float32), (1e5, torch.float32), (1e11, torch.float64)]
)
@pytest.mark.parametrize(("m", "p"), [(1, 0), (8, 64), (400, 0)])
def test_it_equals_the_float64_solve_on_the_cpu(device, condition, precision, m, p):
    torch.manual_seed(1)
    keys, residuals, earlier = torch.randn(m, D_FF), torch.randn(m, D), torch.randn(p, D_FF)
    exact = solve_update(keys, residuals, MomentFactor(moment(condition), "x"), 1000.0, earlier)
    factor = MomentFactor(moment(condition).to(device), "x", torch.float32)
    found = solve_update(keys.to(device), residuals.to(device), factor, 1000.0, earlier.to(device))
    expected = exact.left @ exact.right.T
    error = (found.left @ found.right.T).cpu() - expected
    assert found.precision is precision or m == 400
    assert error.norm() <= 1e-6 * expected.norm()
