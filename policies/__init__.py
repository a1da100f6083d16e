"""Every file is one policy; the file's name is its kind. A policy knows nothing of prices, load or health."""
