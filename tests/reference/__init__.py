"""The public package imagecorruptions, made to run on today's NumPy, SciPy and scikit-image; for tests only."""
