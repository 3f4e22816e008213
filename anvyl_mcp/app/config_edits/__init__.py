"""Edit one entry of a program's config file and keep everything else in it, comments included."""
