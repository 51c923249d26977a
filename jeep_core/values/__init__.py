"""Values to write and the keys they are written at: objective, batch, optimiser, gradients."""
