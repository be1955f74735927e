"""A finished model in the hands of those who use it: its ONNX form, its files, its predictions."""
