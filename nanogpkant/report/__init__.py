"""Tables, charts and pages, for every room that writes them."""
