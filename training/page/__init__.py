"""A report as one self-contained HTML file, and its charts as PNG files. Knows no policy and computes no figure."""
