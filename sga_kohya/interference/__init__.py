"""`python -m sga_kohya.interference`: how a dataset's granularities interfere in a trained adapter."""
