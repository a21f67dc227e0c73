"""A U-Net with nnU-Net's planning rules, as a baseline."""
