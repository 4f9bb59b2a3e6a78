"""How texts are compared: the normalisers."""
