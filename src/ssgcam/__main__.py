"""``python -m ssgcam`` is the command ``ssgcam``."""

from ssgcam.cli import main

if __name__ == "__main__":
    main()
