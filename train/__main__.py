"""`python -m train` is `zoo`."""

from train.entry import main

if __name__ == "__main__":
    main()
