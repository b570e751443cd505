"""One file per family; a file registers by existing."""
