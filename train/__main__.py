"""`python -m train` is `zoo`."""

from train.cli import main

if __name__ == "__main__":
    main()
