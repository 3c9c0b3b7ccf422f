"""Tables, charts and pages: sections in, terminal text, Markdown or HTML out."""
