"""The paper's tables and figures on any model and suite; needs the ``report`` extra."""
