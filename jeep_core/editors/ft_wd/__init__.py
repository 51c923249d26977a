"""FT-WD: fine-tuning of a few matrices with weight decay."""
