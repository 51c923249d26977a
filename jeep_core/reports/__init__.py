"""Parts that plots and reports share; needs the ``report`` extra."""
