"""What is compared: classical methods, PyTorch as published, and judges that none of them is."""
