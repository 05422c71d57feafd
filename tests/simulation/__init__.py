"""The life of a site over days, with everything that can go wrong in them."""
