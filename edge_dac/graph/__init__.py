"""ONNX in and out: safe loading, canonical form, finding layers, rewriting."""
