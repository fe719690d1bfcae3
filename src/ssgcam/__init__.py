"""SSG-CAM: second-order class activation maps, searched layer fusion, masks from image labels."""
