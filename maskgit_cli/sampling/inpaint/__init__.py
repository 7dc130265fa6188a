"""The stage inpaint: regions, windows, and the loop that fills them."""
