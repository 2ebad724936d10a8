"""What must survive a restart and a power cut: operating points and applied configurations. Light: no onnx."""
