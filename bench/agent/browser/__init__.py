"""ONNX Runtime Web in a real browser: a page that loads a file and times it, and what serves and drives that page."""
