"""`python -m pgctl`, which is also how the local ranks are started."""

from pgctl.cli import main

if __name__ == "__main__":
    main()
