"""What is measured on: photographs and their noise, published weights and k-space, the inverse problems."""
