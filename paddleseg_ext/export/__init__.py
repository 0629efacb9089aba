"""From a trained model to a folder that runs without its source, and the proof that both compute the same."""
