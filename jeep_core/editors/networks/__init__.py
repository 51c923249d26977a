"""What editors with a trained network share: hyper-parameters, networks, files, training."""
