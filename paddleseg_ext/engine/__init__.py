"""Train, evaluate and predict: short functions over PaddleSeg's datasets, losses and transforms."""
