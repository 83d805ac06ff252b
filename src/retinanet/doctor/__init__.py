"""`retinanet doctor`: what the data are, what is wrong with them, and whether training can work, before training."""
