"""What one clicks on: plain Python classes that say what is looked at, and ipywidgets over them."""
