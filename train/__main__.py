"""`python -m train` is `zoo`."""

from train.start import main

if __name__ == "__main__":
    main()
