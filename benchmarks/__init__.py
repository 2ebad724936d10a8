"""Side-by-side runs on real models, real images and other engines: ``python -m benchmarks.NAME`` in the checkout."""
