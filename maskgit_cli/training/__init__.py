"""The stages train and train-vqgan and their parts."""
