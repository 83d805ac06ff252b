"""`retinanet report`: what a model gets right and wrong, as one page."""
